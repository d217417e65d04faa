"""Any GAN of the zoo on any images, for so many CPU minutes.

python examples/gan.py --data mnist.npz --preset r3gan_28x28 --conditional
python examples/gan.py --data cifar10 --preset dcgan_32x32 --conditional --horizontal-flip
                       --augment adaptive --steps 18000 --cpu-minutes 35
python examples/gan.py --data cifar10 --preset r3gan_32x32 --conditional --horizontal-flip
                       --augment adaptive --cpu-minutes 25
python examples/gan.py --data emoji64/noto --preset r3gan_32x32 --channels 4 --augment adaptive
                       --every 25

The second trains the best GAN here of colour images, the last one of few images with alpha. Stops
after the CPU minutes that --cpu-minutes names, so that models can be compared at equal cost, and
keeps the model that was best by held-out images.

The first, seed 0 on one of 2 cores (Intel Xeon), has FD-lenet128 7.66 of 10,000 images against the
test images (floor 1.74) after 15 CPU minutes, 6,744 steps. The second, on CIFAR-10 (JPEG copy), has
FD-cifar_cnn 1.972 (floor 0.028), precision 0.954 and recall 0.495 after 20 of its 25 CPU minutes.
examples/pictures/r3gan_mnist.png and dcgan_cifar10.png are theirs, a class in a row. Aeroplanes,
cars, horses, ships and lorries can be told at a glance, frogs cannot.

`--preset resnet_gan_28x28 --cpu-minutes 10` in the first has 7.441 after 4,848 steps, and nearly
twice the recall, 0.726 for 0.395: resnet_gan_mnist.png. vit_gan_28x28 draws about one image of each
class: FD 645 by 2,048 images after 4.4 CPU minutes, and it rises from there.

The third, with R3GAN in place of DCGAN, has 4.704 after 25 CPU minutes, 4,218 steps, still falling:
r3gan_cifar10.png, on which horses, cars and ships can be told. The fourth has FD-general_cnn 18.26
(floor 1.552) after 15 CPU minutes, 2,350 steps: r3gan_emoji.png shows people, hands and walking
figures in outline, colours and alpha right, and no emoji that could be named.
"""

import argparse
import pathlib

import keras
import numpy as np

import kgen
from kgen.training.callbacks import CPUMinutes

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", required=True, help="a folder of images, or mnist.npz")
parser.add_argument("--preset", default="r3gan_28x28", help="of dcgan, resnet_gan, r3gan, vit_gan")
parser.add_argument("--channels", type=int, help="of the images; by default the preset's")
parser.add_argument("--conditional", action="store_true", help="tell both players the classes")
parser.add_argument("--horizontal-flip", action="store_true", help="mirror half of the images")
parser.add_argument("--augment", help="colour, translation, cutout: a probability, or adaptive")
parser.add_argument("--limit", type=int, help="train on so many images")
parser.add_argument("--out", default="runs/gan")
parser.add_argument("--cpu-minutes", type=float, default=15.0, help="of training, at most")
parser.add_argument(
    "--steps", type=int, help="of training, over which the rate falls along a cosine"
)
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--every", type=int, default=2, help="epochs between evaluations")
parser.add_argument("--features", default="auto", help="what images are compared by")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
out = pathlib.Path(args.out)

keras.utils.set_random_seed(args.seed)
arguments = kgen.models.presets()[args.preset]
model_class = kgen.models.get(arguments["model"])
height, width, channels = arguments["image_shape"]
image_shape = (height, width, args.channels or channels)
data = kgen.data.load(
    args.data,
    image_shape=image_shape,
    horizontal_flip=args.horizontal_flip,
)
train = data.train
if args.limit:
    chosen = np.random.default_rng(args.seed).permutation(len(train))[: args.limit]
    labels = None if train.labels is None else train.labels[np.sort(chosen)]
    train = kgen.data.Split(train.images[np.sort(chosen)], labels)

model = model_class.from_preset(
    args.preset,
    image_shape=image_shape,
    num_classes=data.num_classes if args.conditional else None,
    augmentation=("colour", "translation", "cutout") if args.augment else (),
    augmentation_probability="adaptive" if args.augment == "adaptive" else float(args.augment or 1),
    seed=args.seed,
)
epochs = 100_000  # or until the minutes are over
if args.steps is None:
    model.compile()
else:
    epochs = max(1, args.steps // (len(train) // args.batch_size))
    model.compile(schedule="cosine", total_steps=args.steps)
out.mkdir(parents=True, exist_ok=True)
reference = kgen.evaluation.Reference(data.validation, train, args.features, split="validation")
evaluation = kgen.evaluation.EvaluateSamples(
    reference, every=args.every, metrics=["fd"], best="fd", path=out / "model.keras"
)
minutes = CPUMinutes(args.cpu_minutes)
model.fit(
    train if args.conditional else train.images,
    batch_size=args.batch_size,
    epochs=epochs,
    callbacks=[minutes, evaluation],
    verbose=2,
)
# Players grow apart: the best model is seldom the last.
model = keras.saving.load_model(out / "model.keras")

figures = kgen.evaluation.evaluate(
    model,
    data,
    train,
    metrics=["fd", "precision", "recall", "authenticity"],
    features=args.features,
    folder=out,
)
for title, entry in figures["metrics"].items():
    print(f"{title} of 10,000 images: {entry['value']:.4g} (floor {entry['floor']:.4g})")
print(f"{minutes.minutes:.1f} CPU minutes, the best after {model.steps_trained} steps")

# A row per class.
labels = np.repeat(np.arange(data.num_classes)[:10], 10) if args.conditional else None
images = model.generate(100, labels=labels, seed=0)
kgen.images.save_png(kgen.images.grid(images, columns=10), out / "samples.png")
print(f"wrote {out}/samples.png, {out}/report.html and {out}/model.keras")
