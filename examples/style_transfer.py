"""Style transfer: one network for all styles, beside the optimisation of each picture.

python examples/style_transfer.py --contents cifar10 --styles emoji64/twemoji --steps 1500

On 2 cores (AMD EPYC, TF_ENABLE_ONEDNN_OPTS=1), seed 0: 8.7 CPU minutes; 2.19 times the losses of
the optimisation at 614 times its speed.
"""

import argparse
import json
import pathlib
import time

import keras
import numpy as np
from keras import ops

import kgen
from kgen.images import grid, save_png, viewing_scale
from kgen.layers.scaling import scale_images
from kgen.models.translation.style_transfer import optimise
from kgen.training.callbacks import CPUMinutes

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--contents", required=True, help="a folder of images")
parser.add_argument("--styles", required=True, help="a folder of images whose style is learnt")
parser.add_argument("--shape", default="32x32x3")
parser.add_argument("--style-weight", type=float, default=1.0)
parser.add_argument("--steps", type=int, default=6000, help="over which the rate falls")
parser.add_argument("--cpu-minutes", type=float, default=20.0, help="of training, at most")
parser.add_argument("--optimisation-steps", type=int, default=500)
parser.add_argument("--out", default="runs/style_transfer")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
out = pathlib.Path(args.out)
out.mkdir(parents=True, exist_ok=True)

keras.utils.set_random_seed(args.seed)
shape = tuple(map(int, args.shape.split("x")))
data = kgen.data.load_pairs(args.contents, args.styles, shape, paired=False)
model = kgen.models.StyleTransfer(shape, style_weight=args.style_weight)
model.compile(total_steps=args.steps)
minutes, every = CPUMinutes(args.cpu_minutes), max(1, args.steps // 20)
model.fit(
    data.train,
    batch_size=model.default_batch_size,
    steps_per_epoch=every,
    epochs=args.steps // every,
    callbacks=[minutes],
    verbose=2,
)
model.save(out / "model.keras")

# Ten held-out contents, each in ten held-out styles, by both.
rng = np.random.default_rng(args.seed)
contents, styles = (
    np.asarray(images)[np.sort(rng.permutation(len(images))[:10])]
    for images in (data.test.inputs, data.test.images)
)
pairs = [np.repeat(contents, 10, axis=0), np.tile(styles, (10, 1, 1, 1))]
model.stylize(*pairs, batch_size=100)  # compiles
start = time.perf_counter()
made = model.stylize(*pairs, batch_size=100)
seconds = {"network": time.perf_counter() - start}
steps = {"steps": args.optimisation_steps, "style_weight": args.style_weight}
optimise(*pairs, model.losses, model.encoder, steps=2)
start = time.perf_counter()
best, *reference = optimise(*pairs, model.losses, model.encoder, **steps)
seconds["optimisation"] = time.perf_counter() - start


def losses_of(images):
    tensors = (scale_images(ops.convert_to_tensor(x)) for x in (images, *pairs))
    return [float(ops.convert_to_numpy(loss).mean()) for loss in model.losses(*tensors)]


figures = {
    name: dict(zip(("content_loss", "style_loss"), losses, strict=True))
    for name, losses in (
        ("network", losses_of(made)),
        ("optimisation", [float(loss.mean()) for loss in reference]),
        ("contents as they are", losses_of(pairs[0])),
    )
}
for each in figures.values():
    each["sum"] = each["content_loss"] + args.style_weight * each["style_loss"]
figures["network over optimisation"] = {
    "losses": figures["network"]["sum"] / figures["optimisation"]["sum"],
    "speed": seconds["optimisation"] / seconds["network"],
}
figures["seconds"] = seconds
figures["training"] = {"cpu_minutes": minutes.minutes, "steps": model.steps_trained}
(out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
print(json.dumps(figures, indent=2))

white = np.full((1, *shape), 255, "uint8")
for name, images in (("network", made), ("optimisation", best)):
    rows = [np.concatenate([white, styles])]
    rows += [np.concatenate([contents[i : i + 1], images[10 * i : 10 * i + 10]]) for i in range(10)]
    picture = grid(np.concatenate(rows), 11, scale=viewing_scale(shape, 64))
    save_png(picture, out / f"{name}.png")
