"""What augmentation does for a GAN of few images: 500 or 1,000 emoji, with and without.

python benchmarks/few_images.py --data emoji64/noto --count 500 --augment none
python benchmarks/few_images.py --data emoji64/noto --count 500 --augment adaptive

The folder holds PNG files with alpha, and `metadata.jsonl` with their captions. Variants that
differ by the tone of skin alone are left out, or a copy of a training image would be as good as a
new one. Of the rest `--count` are trained on, and all others are what drawn images are compared
with. The report shows drawn images beside the nearest ones that were trained on.
"""

import argparse
import json
import pathlib
import tempfile

import keras
import numpy as np

import kgen
from kgen.training.callbacks import CPUMinutes

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", type=pathlib.Path, required=True)
parser.add_argument("--count", type=int, default=500, help="images to train on")
parser.add_argument("--augment", default="adaptive", help="none, a probability, or adaptive")
parser.add_argument("--preset", default="dcgan_32x32")
parser.add_argument("--set", action="append", default=[], metavar="NAME=JSON", dest="settings")
parser.add_argument("--features", default="auto", help="what images are compared by")
parser.add_argument("--steps", type=int, default=8000)
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--every", type=int, default=1000, help="steps between evaluations")
parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/few_images"))
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

keras.utils.set_random_seed(args.seed)
described = map(json.loads, (args.data / "metadata.jsonl").read_text("utf-8").splitlines())
files = sorted(row["file_name"] for row in described if "skin tone" not in row["text"])
chosen = np.random.default_rng(args.seed).permutation(len(files))
with tempfile.TemporaryDirectory() as folder:
    for position, index in enumerate(chosen):
        split = pathlib.Path(folder) / ("train" if position < args.count else "test")
        split.mkdir(exist_ok=True)
        (split / files[index]).symlink_to((args.data / files[index]).resolve())
    data = kgen.data.load(folder, image_shape=(32, 32, 4), validation_fraction=0.0)
settings = {name: json.loads(value) for name, _, value in (s.partition("=") for s in args.settings)}
if args.augment != "none":
    settings["augmentation"] = ("colour", "translation", "cutout")
    share = args.augment if args.augment == "adaptive" else float(args.augment)
    settings["augmentation_probability"] = share
model_class = kgen.models.get(kgen.models.presets()[args.preset]["model"])
model = model_class.from_preset(args.preset, image_shape=(32, 32, 4), seed=args.seed, **settings)
model.compile()
# An epoch as long as the time between evaluations, whatever the number of images.
images = data.train.images
repeated = np.concatenate([images] * (args.every * args.batch_size // len(images) + 1))
repeated = repeated[: args.every * args.batch_size]
reference = kgen.evaluation.Reference(data.test, data.train, args.features)
minutes = CPUMinutes()
model.fit(
    repeated,
    batch_size=args.batch_size,
    epochs=args.steps // args.every,
    validation_data=data.test,  # the log then tells how much the discriminator knows by heart
    callbacks=[minutes, kgen.evaluation.EvaluateSamples(reference, metrics=["fd"])],
    verbose=2,
)
metrics = ["fd", "precision", "recall", "authenticity"]
figures = kgen.evaluation.evaluate(
    model, data, data.train, metrics=metrics, features=args.features, folder=args.out
)["metrics"]
said = ", ".join(f"{title} {row['value']:.4g}" for title, row in figures.items())
print(
    f"{args.count} of {len(files)} images, augmentation {args.augment}, {model.steps_trained} "
    f"steps, {minutes.minutes:.1f} CPU minutes: {said}"
)
model.save(args.out / "model.keras")
