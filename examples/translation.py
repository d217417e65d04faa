"""Any translator of the zoo on any images, for so many CPU minutes.

python examples/translation.py restorer --data emoji64/twemoji --inputs emoji64/noto
                               --shape 32x32x3 --group-by=-1f3f[b-f] --features general_cnn
python examples/translation.py restorer --data cifar10 --degrade noise:25 --horizontal-flip
python examples/translation.py palette --data mnist.npz --degrade box:0.25

On 2 cores (AMD EPYC without AMX, TF_ENABLE_ONEDNN_OPTS=1, which TensorFlow leaves off there and
which takes half the time), seed 0: noise:25 on CIFAR-10 8.4 dB less after 6.8 CPU minutes. This and
the other figures stand with their commands in benchmarks/RESULTS.md, "Image in, image out".

Writes the model, figures.json (of what is made of held-out inputs, of the inputs as they are, and
of a --baseline) and pictures: input, output, truth, and how the last two differ; gallery.png has a
row of inputs, of what the baseline and the model make of them, and of the truth.
"""

import argparse
import json
import pathlib

import keras
import numpy as np

import kgen
from kgen.cli.common import parse_settings
from kgen.evaluation import translation
from kgen.images import grid, save_png, viewing_scale
from kgen.training.callbacks import CPUMinutes

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("model", help="of restorer, pix2pix, cycle_gan, srgan, palette")
parser.add_argument("--data", required=True, help="a folder of images, or mnist.npz")
parser.add_argument("--inputs", help="a folder of what they are to be made of")
parser.add_argument("--degrade", help="what is done to clean images, such as noise:25")
parser.add_argument("--shape", help="such as 32x32x3; by default the images' own")
parser.add_argument("--input-shape", help="of those, such as 32x32x1 for grey; else --shape")
parser.add_argument("--unpaired", action="store_true", help="train without the partners")
parser.add_argument("--group-by", help="names alike without what this matches go into one split")
parser.add_argument("--horizontal-flip", action="store_true", help="mirror half of the images")
parser.add_argument("--begin-with", help="the .keras file of a trained translator")
parser.add_argument("--baseline", help="the .keras file of a translator to compare with")
parser.add_argument("--set", nargs="*", default=[], help="name=value, arguments of the model")
parser.add_argument("--batch-size", type=int, help="by default the model's own")
parser.add_argument("--learning-rate", type=float, help="by default the model's own")
parser.add_argument("--cpu-minutes", type=float, default=10.0, help="of training, at most")
parser.add_argument("--steps", type=int, default=4000, help="over which the rate falls")
parser.add_argument("--dtype", default="float32", help="mixed_bfloat16 where there is AMX")
parser.add_argument("--features", nargs="+", default=["auto"], help="of Fréchet distances")
parser.add_argument("--limit", type=int, default=10_000, help="held-out images to measure")
parser.add_argument("--out", default="runs/translation")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
out = pathlib.Path(args.out)
out.mkdir(parents=True, exist_ok=True)

keras.utils.set_random_seed(args.seed)
keras.config.set_dtype_policy(args.dtype)
shape, input_shape = (
    tuple(map(int, text.split("x"))) if text else None for text in (args.shape, args.input_shape)
)
if args.inputs:
    options = {"group_by": args.group_by, "horizontal_flip": args.horizontal_flip}
    data = kgen.data.load_pairs(args.inputs, args.data, shape, input_shape=input_shape, **options)
else:
    data = kgen.data.load(args.data, shape, horizontal_flip=args.horizontal_flip)
train = data.train
if args.unpaired:
    train = kgen.data.Split(train.images, inputs=train.inputs, paired=False)

arguments = {"degradation": args.degrade} if args.degrade else {"input_shape": data.input_shape}
model = kgen.models.get(args.model)(data.image_shape, **arguments, **parse_settings(args.set))
if args.begin_with:
    model.begin_with(kgen.load(args.begin_with))
model.compile(learning_rate=args.learning_rate, total_steps=args.steps)
batch_size = args.batch_size or model.default_batch_size
batches = len(train.images) // batch_size
every = batches if args.steps >= batches else max(1, args.steps // 10)
minutes = CPUMinutes(args.cpu_minutes)
model.fit(
    train,
    validation_data=data.validation.part(np.arange(min(512, len(data.validation)))),
    batch_size=batch_size,
    steps_per_epoch=every,
    epochs=args.steps // every,
    callbacks=[minutes],
    verbose=2,
)
model.save(out / "model.keras")

rows = np.sort(np.random.default_rng(0).permutation(len(data.test))[: args.limit])
test = data.test.part(rows)
reference, *others = (kgen.evaluation.Reference(test, data.train, x) for x in args.features)
baseline = args.baseline and kgen.load(args.baseline)
figures, arrays = translation.measure(model, test, reference, baseline)
for name, other in zip(args.features[1:], others, strict=True):
    for row in figures["rows"][:-1]:
        [found] = other.measure(arrays[row["name"]], metrics=["fd"], force=True)["metrics"].values()
        row[f"fd_{name}"] = found["value"]
figures["floor"] = reference.measure(arrays["model"], metrics=["fd"], force=True)["metrics"]
figures["training"] = {
    "cpu_minutes": minutes.minutes,
    "steps": model.steps_trained,
    "parameters": model.count_params(),
}
(out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
print(json.dumps(figures, indent=2))
scale = viewing_scale(model.image_shape, 64)
for slug, picture in translation.shown(arrays).items():
    save_png(picture["image"].repeat(scale, axis=0).repeat(scale, axis=1), out / f"{slug}.png")
spread = np.linspace(0, len(test) - 1, 12).round().astype(int)  # of all classes
rows = [arrays[name][spread] for name in ("input", "baseline", "model", "truth") if name in arrays]
save_png(grid(np.concatenate(rows), len(spread), scale=scale), out / "gallery.png")
