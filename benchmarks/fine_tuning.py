"""What trained weights are worth to 200 images of one's own: fine-tuned, and trained from scratch.

kgen train dcgan --data mnist.npz --conditional --epochs 5 --run runs/dcgan-mnist
python benchmarks/fine_tuning.py --preset runs/dcgan-mnist

The images are scikit-learn's digits: other writers than MNIST's, another scanner, 8x8 pixels, here
resized to 20x20 (bicubic) and laid into the middle of 28x28, as MNIST's are. 200 are trained on,
and the other 1,597 are what drawn images are compared with. Both models are built by `kgen train`,
with the same arguments, and trained for equally many CPU minutes of training steps; the trained one
takes its smaller learning rate, or `--rate` times its own. An epoch is the 200 images 16 times.
"""

import argparse
import pathlib
import tempfile

import keras
import numpy as np
from PIL import Image

import kgen
from kgen.training.callbacks import CPUMinutes
from kgen.training.run import train

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--preset", required=True, help="what `kgen.load` takes, of 28x28x1")
parser.add_argument("--count", type=int, default=200, help="images to train on")
parser.add_argument("--minutes", type=float, default=1.0, help="CPU minutes of steps, of each")
parser.add_argument("--rate", type=float, nargs="*", help="shares of the model's own learning rate")
parser.add_argument("--features", default="lenet128")
parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/fine_tuning"))
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()


def placed(image):
    """uint8 `[8, 8]` as `[28, 28]`."""
    return np.pad(np.asarray(Image.fromarray(image).resize((20, 20), Image.BICUBIC)), 4)


digits = kgen.data.load("digits", validation_fraction=0, test_fraction=0).train
images = np.stack([placed(image[..., 0]) for image in digits.images[:]])
order = np.random.default_rng(args.seed).permutation(len(images))
own, others = np.split(order, [args.count])
own = np.tile(own, 16)
arrays = {"x_train": images[own], "y_train": digits.labels[own]}
arrays |= {"x_test": images[others], "y_test": digits.labels[others]}
trained = kgen.load(args.preset)
name = {each: name for name, each in kgen.models.registered().items()}[type(trained)]


def measured(model, what, folder):
    figures = kgen.evaluation.evaluate(
        model,
        data,
        num_samples=len(others),
        metrics=["fd", "label_accuracy"] if model.num_classes else ["fd"],
        features=args.features,
        seed=args.seed,
        folder=args.out / folder,
    )["metrics"]
    said = ", ".join(f"{title} {row['value']:.4g}" for title, row in figures.items())
    print(f"{what}: {said}", flush=True)
    return next(iter(figures.values()))["value"]


def trained_for_minutes(model, folder, **options):
    minutes = CPUMinutes(args.minutes)
    run = train(
        model,
        data,
        args.out / folder / "run",
        epochs=10**6,
        conditional=trained.num_classes is not None,
        callbacks=[minutes],
        seed=args.seed,
        force=True,
        verbose=0,
        **options,
    )
    model = kgen.load(run.path)
    begun = run.info.get("begun_with", {"taken": 0, "fresh": []})
    text = f"{folder}: {minutes.minutes:.2f} CPU minutes, {model.steps_trained:,} steps, "
    text += f"{begun['taken']} layers taken, {len(begun['fresh'])} fresh"
    return measured(model, text, folder)


with tempfile.TemporaryDirectory() as folder:
    np.savez(pathlib.Path(folder, "digits.npz"), **arrays)
    data = kgen.data.load(pathlib.Path(folder, "digits.npz"), validation_fraction=0)
    measured(trained, "as it is", "before")
    scratch = trained_for_minutes(name, "scratch")
    rate = float(keras.ops.convert_to_numpy(trained.default_optimizer().learning_rate))
    for share in args.rate or [None]:
        options = {} if share is None else {"learning_rate": share * rate}
        label = "fine_tuned" if share is None else f"fine_tuned_{share:g}"
        fine = trained_for_minutes(args.preset, label, **options)
        print(f"{label}: FD {fine / scratch:.2f} of that from scratch", flush=True)
