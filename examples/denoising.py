"""Any denoising model of the zoo on any images: samples, and how good they are by passes.

python examples/denoising.py --data mnist.npz --preset flow_matching_28x28 --epochs 2
python examples/denoising.py --data cifar10 --preset flow_matching_32x32 --conditional
                             --horizontal-flip --epochs 10

The first with `--epochs 11 --set dtype=mixed_bfloat16`, seed 0 on one of 2 cores (Intel Xeon with
AMX) that had other work, has FD-lenet128 14.09 of 10,000 images in 16 steps (floor 2.19), precision
0.803 and recall 0.959 after 27.0 CPU minutes, 20,625 steps of 32: pictures/flow_matching_mnist.png.
Other lengths, and what distilling makes of them, are in benchmarks/RESULTS.md.

The rate rises and falls along a cosine over all epochs, so fewer epochs are no part of more.
"""

import argparse
import pathlib

import keras
import numpy as np

import kgen
from kgen.cli.common import parse_settings
from kgen.training.callbacks import CPUMinutes

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", required=True, help="a folder of images, or mnist.npz")
parser.add_argument("--preset", default="flow_matching_28x28", help="of dit, flow_matching, ddpm …")
parser.add_argument("--conditional", action="store_true", help="tell the network the classes")
parser.add_argument("--horizontal-flip", action="store_true", help="mirror half of the images")
parser.add_argument("--out", default="runs/denoising")
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--teacher", help="a model.keras of this example, to distill")
parser.add_argument("--passes", type=int, default=1, help="of the network, with --teacher")
parser.add_argument(
    "--set", action="append", default=[], help="NAME=VALUE of the model; repeatable"
)
parser.add_argument("--batch-size", type=int, help="by default the model's")
parser.add_argument("--learning-rate", type=float, help="by default the model's")
parser.add_argument("--num-samples", type=int, default=10_000, help="for the figures")
parser.add_argument("--num-steps", type=int, help="of the sampler, for the figures; 16, or its own")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
out = pathlib.Path(args.out)
out.mkdir(parents=True, exist_ok=True)

keras.utils.set_random_seed(args.seed)
arguments = kgen.models.presets()[args.preset]
data = kgen.data.load(
    args.data,
    image_shape=arguments["image_shape"],
    horizontal_flip=args.horizontal_flip,
    validation_fraction=0.0,
)
train = (
    data.train
    if args.conditional
    else kgen.data.Split(data.train.images, horizontal_flip=args.horizontal_flip)
)
settings = parse_settings(args.set)
if args.teacher:
    kgen.models.registered()  # so that Keras knows the classes
    model = keras.saving.load_model(args.teacher).distill(args.passes, **settings)
else:
    num_classes = data.num_classes if args.conditional else None
    model = kgen.models.get(arguments["model"]).from_preset(
        args.preset, num_classes=num_classes, seed=args.seed, **settings
    )
options = {"num_steps": args.num_steps}
if args.num_steps is None:
    options = {"num_steps": 16} if model.samplers else {}
batch_size = args.batch_size or model.default_batch_size
model.compile(
    learning_rate=args.learning_rate, total_steps=args.epochs * (len(train) // batch_size)
)
minutes = CPUMinutes(100_000)  # counts
model.fit(train, batch_size=batch_size, epochs=args.epochs, callbacks=[minutes], verbose=2)
model.save(out / "model.keras")
print(f"{minutes.minutes:.1f} CPU minutes, {model.steps_trained} steps of {batch_size}", flush=True)

# A row per class.
labels = np.repeat(np.arange(data.num_classes)[:10], 10) if args.conditional else None
images = model.generate(100, labels=labels, seed=0, **options)
kgen.images.save_png(kgen.images.grid(images, columns=10), out / "samples.png")
print(f"wrote {out}/samples.png and {out}/model.keras", flush=True)

reference = kgen.evaluation.Reference(data.test, data.train)
labels = reference.labels_like(args.num_samples, 1) if args.conditional else None
drawn = model.generate(args.num_samples, labels=labels, seed=1, **options)
figures = reference.measure(drawn, labels, metrics=("fd", "precision", "recall"))["metrics"]
for title, entry in figures.items():
    # Of fewer training images than these there is no floor to compare with.
    floor = "" if entry["floor"] is None else f" (floor {entry['floor']:.4g})"
    print(f"{title} of {args.num_samples:,}: {entry['value']:.4g}{floor}")
