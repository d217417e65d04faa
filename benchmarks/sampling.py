"""The cached samplers against the whole network for every pixel, and as artifacts.

    python benchmarks/sampling.py
    python benchmarks/sampling.py gated_pixelcnn --pixels 784
    python benchmarks/sampling.py --growth    # cost of a token as the image grows

The slow sampler, which is what other libraries have, runs the whole network for each value
of each pixel and keeps one. It is timed on the first pixels (`--pixels`) and scaled to the
image; its pixels must equal those of the cached one. Weights are random.
"""

import argparse
import pathlib
import statistics
import tempfile
import time

import keras
import numpy as np
from keras import ops

import kgen
from kgen import random
from kgen.training.step import compile_function

CASES = {
    "gated_pixelcnn": (
        kgen.models.GatedPixelCNN,
        {"image_shape": (28, 28, 1), "filters": 64, "num_layers": 8, "num_levels": 256},
        64,
    ),
    "pixelcnn_pp": (
        kgen.models.PixelCNNpp,
        {"image_shape": (32, 32, 3), "filters": 64, "num_blocks": 2},
        16,
    ),
    "image_gpt": (
        kgen.models.ImageGPT,
        {"image_shape": (8, 8, 1), "num_levels": 17, "num_layers": 3},
        1,
    ),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(CASES), metavar="MODEL")
    parser.add_argument("--pixels", type=int, default=20, help="pixels of the slow sampler")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-export", action="store_true", help="leave out the artifacts")
    parser.add_argument("--no-xla", action="store_true", help="leave out TensorFlow with XLA")
    parser.add_argument("--growth", action="store_true", help="ImageGPT of 64 to 1,024 tokens")
    args = parser.parse_args()
    if args.growth:
        return growth(args)
    for name in args.models:
        if name not in CASES:
            parser.error(f"unknown model {name!r}; there are {', '.join(CASES)}")
    for name in args.models:
        measure(name, *CASES[name], args)


def measure(name, build, options, batch, args):
    keras.utils.set_random_seed(0)
    model = build(**options)
    rng = np.random.default_rng(0)
    for variable in model.final_network.variables:  # logits are 0 at first: all would be alike
        if "logits" in variable.path:
            variable.assign(rng.normal(0, 0.3, variable.shape))
    seeds = np.arange(batch, dtype="int32")
    height, width, channels = model.image_shape
    parameters = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    print(f"{name} {options}, {parameters:,} parameters, batch {batch}", flush=True)

    def cached():
        return model.generate(seeds=seeds, batch_size=batch, progress=False)

    images = cached()
    seconds = repeat(cached, args.repeats)
    print(f"  cached     {seconds:8.4f} s", flush=True)

    pixels = min(args.pixels, height * width)
    values = pixels * model.distribution.passes
    slow, found = recompute(model, seeds, pixels)
    slow *= height * width / pixels
    equal = np.mean(found == images.reshape(batch, -1, channels)[:, :pixels])
    print(
        f"  recomputed {slow:8.2f} s (from {values} passes): {slow / seconds:.0f} times slower; "
        f"{equal:.3%} of {found.size} values equal",
        flush=True,
    )
    if not args.no_xla:
        compiled = compile_function(model, model.sample, jit_compile=True)

        def by_xla():
            return ops.convert_to_numpy(compiled(ops.convert_to_tensor(seeds)))

        again = by_xla()
        report("XLA", by_xla, cached, slow, again == images, args)
    if args.no_export:
        return
    import onnxruntime
    import tensorflow as tf

    import export

    with tempfile.TemporaryDirectory() as folder:
        artifact = pathlib.Path(folder) / "artifact"
        export.export(model, artifact, progress=False)
        session = onnxruntime.InferenceSession(artifact / "onnx" / "generate.onnx")
        loaded = tf.saved_model.load(artifact / "saved_model" / "1")
        signature = loaded.signatures["generate_xla"]

        def by_onnx():
            return session.run(["image"], {"seed": seeds})[0]

        def by_saved_model():
            return signature(seed=tf.constant(seeds))["image"].numpy()

        for name, function in (("SavedModel", by_saved_model), ("ONNX", by_onnx)):
            if name == "ONNX" or not args.no_xla:
                report(name, function, cached, slow, function() == images, args)


def growth(args):
    """Seconds per token of ImageGPT, batch 1: linear in the tokens so far, and little of it."""
    first = {}
    for side in (8, 16, 32):
        keras.utils.set_random_seed(0)
        model = kgen.models.ImageGPT((side, side, 1), num_levels=17, num_layers=3)
        for jit in (False, True):
            compiled = compile_function(model, model.sample, jit_compile=jit)

            def draw(compiled=compiled):
                return ops.convert_to_numpy(compiled(ops.convert_to_tensor([0], "int32")))

            draw()
            token = repeat(draw, args.repeats) / side**2
            ratio = token / first.setdefault(jit, token)
            name = "XLA" if jit else "TensorFlow"
            print(
                f"{side**2:5} tokens, {name:10}: {1e3 * token:.3f} ms a token, {ratio:.2f} of that "
                "of 64 tokens",
                flush=True,
            )


def report(name, function, cached, slow, equal, args):
    """One after the other, so that both meet the same load."""
    times = [(timed(function), timed(cached)) for _ in range(args.repeats)]
    seconds = statistics.median(a for a, _ in times)
    ratio = statistics.median(a / b for a, b in times)
    print(
        f"  {name:10} {seconds:8.4f} s: {ratio:.2f} of TensorFlow's, {slow / seconds:.0f} times "
        f"faster than recomputed; {np.mean(equal):.3%} of the values equal",
        flush=True,
    )


def recompute(model, seeds, pixels):
    """Seconds for the first pixels by the whole network, without compilation; and the pixels."""
    height, width, channels = model.image_shape
    distribution = model.distribution
    if isinstance(model, kgen.models.ImageGPT):
        return recompute_tokens(model, seeds, pixels)
    network = compile_function(model, lambda x: model.final_network(x))
    x = np.zeros((len(seeds), height, width, channels), "float32")
    network(ops.convert_to_tensor(x))
    start = time.perf_counter()
    for pixel in range(pixels):
        row, column = divmod(pixel, width)
        noise = random.gumbel(
            ops.convert_to_tensor(seeds), (width, *distribution.noise_shape), stream=row
        )
        for step in range(distribution.passes):
            parameters = network(ops.convert_to_tensor(x))[:, row, column]
            drawn = distribution.draw(parameters, noise[:, column], x[:, row, column], step)
            x[:, row, column] = ops.convert_to_numpy(drawn)
    seconds = time.perf_counter() - start
    images = ops.convert_to_numpy(model.to_images(x))
    return seconds, images.reshape(len(seeds), -1, channels)[:, :pixels]


def recompute_tokens(model, seeds, tokens):
    """The same for a transformer without colours or channels: a token is a pixel."""
    count = model.network.num_tokens
    network = compile_function(model, lambda x: model.network(x))
    noise = random.gumbel(
        ops.convert_to_tensor(seeds), (model.network.length, random.categorical_size(count))
    )
    x = np.zeros((len(seeds), model.network.length), "int32")
    network(ops.convert_to_tensor(x))
    start = time.perf_counter()
    for token in range(tokens):
        logits = network(ops.convert_to_tensor(x))[:, token]
        x[:, token] = ops.convert_to_numpy(random.categorical(logits, noise[:, token]))
    seconds = time.perf_counter() - start
    levels = 2 * x.reshape(-1, *model.image_shape).astype("float32") / (count - 1) - 1
    images = ops.convert_to_numpy(model.to_images(levels))
    return seconds, images.reshape(len(seeds), -1, 1)[:, :tokens]


def timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def repeat(function, times):
    return statistics.median(timed(function) for _ in range(times))


if __name__ == "__main__":
    main()
