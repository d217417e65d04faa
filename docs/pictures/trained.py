"""Pictures of the trained models that come with kgen, for docs/howto/presets.md.

python docs/pictures/trained.py --cifar10 cifar10 --emoji emoji64

Of each ten images, by the defaults: drawn from the first seeds, each class in turn, or made of
held-out images, which stand above them.
"""

import argparse
import pathlib

import numpy as np

import kgen

HERE = pathlib.Path(__file__).resolve().parent
SEEDS = np.arange(10)

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("names", nargs="*", help="all of them by default")
parser.add_argument("--cifar10", default="cifar10", help="a folder of train/CLASS, test/CLASS")
parser.add_argument("--emoji", default="emoji64", help="a folder of noto/ and twemoji/")
args = parser.parse_args()


def spread(images):
    return np.asarray(images)[np.linspace(0, len(images) - 1, len(SEEDS)).astype(int)]


def noisy_photographs():
    photographs = kgen.data.load(args.cifar10, image_shape=(32, 32, 3)).test.images
    return kgen.data.degrade(spread(photographs), "noise:5-50")


def grey_emoji():
    twemoji = f"{args.emoji}/twemoji"
    emoji = kgen.data.load_pairs(
        twemoji, twemoji, (32, 32, 3), input_shape=(32, 32, 1), group_by="-1f3f[b-f]"
    )
    return spread(emoji.test.inputs)


INPUTS = {"restorer_cifar10": noisy_photographs, "pix2pix_emoji": grey_emoji}

for name in args.names or kgen.models.trained():
    model = kgen.load(name)
    origin = kgen.origin.of_model(model, name)
    if name in INPUTS:
        inputs = INPUTS[name]()
        made = model.translate(inputs, seeds=SEEDS)
        above = np.broadcast_to(inputs, made.shape)
        rows, cells = np.concatenate([above, made]), range(10, 20)
        named = [f"#{place}" for place in range(10)]
        claim = origin.claim(seeds=SEEDS, inputs={"image": named})
    else:
        labels = None if model.num_classes is None else SEEDS % model.num_classes
        rows, cells = model.generate(seeds=SEEDS, labels=labels), None
        claim = origin.claim(seeds=SEEDS, labels=labels)
    scale = kgen.images.viewing_scale(rows.shape[1:], 64)
    picture = kgen.images.grid(rows, 10, scale=scale)
    claim = claim.in_grid(10, scale=scale, cells=cells)
    kgen.images.save_png(picture, HERE / "trained" / f"{name}.png", claim)
    print(name)
