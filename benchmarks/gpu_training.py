"""Every model of the zoo trained for some minutes on JAX: images per second, FLOPs, losses.

    KERAS_BACKEND=jax python benchmarks/gpu_training.py --data mnist.npz --minutes 2
    KERAS_BACKEND=jax python benchmarks/gpu_training.py --data mnist.npz --peak-tflops 989 dit

Layers compute in bfloat16. Models are the presets for the data's shape; those over codes take
the VQ-VAE that was trained before them. The first epoch compiles and is left out of the speed.
FLOPs are those that XLA counts in a training step (`cost_analysis` of the lowered step: a loop's
body counts once, so that a PixelRNN has too few); their share of `--peak-tflops` is the
utilisation, which counts all operations and not those of the matrices alone.
"""

import argparse
import json
import time

import jax
import keras

import kgen

ORDER = (
    *("vae", "ladder_vae", "vit_vae", "dcgan", "pixelcnn", "gated_pixelcnn", "pixelcnn_pp"),
    *("pixelrnn", "image_gpt", "dit", "vqvae", "vq_pixelcnn", "vq_transformer", "maskgit"),
)


class Clock(keras.callbacks.Callback):
    """Stops training in time, and says how fast it was and how the loss went."""

    def __init__(self, seconds, images):
        super().__init__()
        self.seconds, self.images = seconds, images
        self.times, self.losses = [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.begun = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.times.append(time.perf_counter() - self.begun)
        self.losses.append({name: round(float(value), 4) for name, value in logs.items()})
        if sum(self.times) > self.seconds and len(self.times) > 1:
            self.model.stop_training = True

    @property
    def images_per_second(self):
        return self.images * len(self.times[1:]) / sum(self.times[1:])


def flops(model, data, batch_size):
    """Floating-point operations of one training step, counted by XLA."""
    groups = (
        *(model.trainable_variables, model.non_trainable_variables),
        *(model.optimizer.variables, model.metrics_variables),
    )
    state = tuple([v.value for v in group] for group in groups)
    batch = (data.images[:batch_size],)
    if model.num_classes is not None:
        batch = (*batch, data.labels[:batch_size])
    return jax.jit(model.train_step).lower(state, batch).cost_analysis()["flops"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(ORDER), metavar="MODEL")
    parser.add_argument("--data", required=True)
    parser.add_argument("--minutes", type=float, default=2.0, help="for each model")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--images", type=int, help="images of an epoch; default: all")
    parser.add_argument("--peak-tflops", type=float, help="of the device, in bfloat16")
    parser.add_argument("--json", help="write the figures to this file")
    args = parser.parse_args()
    for name in args.models:
        if name not in ORDER:
            parser.error(f"unknown model {name!r}; there are {', '.join(ORDER)}")
    if keras.backend.backend() != "jax":
        parser.error("set the environment variable KERAS_BACKEND to jax")
    data = kgen.data.load(args.data, validation_fraction=0.0).train
    if args.images:
        data = kgen.data.Split(data.images[: args.images], data.labels[: args.images])
    height, width, _ = data.images.shape[1:]
    classes = int(data.labels.max()) + 1
    device = jax.devices()[0]
    print(f"{device.device_kind}, JAX {jax.__version__}, batch {args.batch_size}", flush=True)
    report, tokenizer = {"device": device.device_kind, "models": {}}, f"vqvae_{height}x{width}"
    for name in [name for name in ORDER if name in args.models]:
        keras.utils.set_random_seed(0)
        options = {"num_classes": classes, "dtype": "mixed_bfloat16"}
        if name in ("vq_pixelcnn", "vq_transformer", "maskgit"):
            options["tokenizer"] = tokenizer
        if name == "vqvae":
            del options["num_classes"]
        model = kgen.models.get(name).from_preset(f"{name}_{height}x{width}", **options)
        model.compile()
        clock = Clock(60 * args.minutes, len(data) // args.batch_size * args.batch_size)
        model.fit(data, batch_size=args.batch_size, epochs=10**6, callbacks=[clock], verbose=0)
        step = flops(model, data, args.batch_size)
        reached = step * clock.images_per_second / args.batch_size / 1e12
        row = {
            "images_per_second": round(clock.images_per_second, 1),
            "gflop_per_step": round(step / 1e9, 2),
            "tflops": round(reached, 3),
            "epochs": clock.losses,
        }
        text = f"{name:15} {row['images_per_second']:>10,} images/s, {reached:.2f} TFLOP/s"
        if args.peak_tflops:
            row["utilisation"] = reached / args.peak_tflops
            text += f", {row['utilisation']:.1%} of the peak"
        first, last = clock.losses[0], clock.losses[-1]
        curve = ", ".join(f"{key} {first[key]:g} -> {last[key]:g}" for key in last)
        print(f"{text}; {len(clock.losses)} epochs: {curve}", flush=True)
        report["models"][name] = row
        if name == "vqvae":
            tokenizer = model
    if args.json:
        with open(args.json, "w") as file:
            json.dump(report, file, indent=2)


if __name__ == "__main__":
    main()
