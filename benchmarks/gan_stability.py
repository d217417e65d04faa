"""How often each adversarial loss fails: many seeds, short trainings on 8x8 digits.

python benchmarks/gan_stability.py --seeds 20

A DCGAN (`dcgan_8x8`, of half the width) with each loss, with its defaults, on the `digits` of
scikit-learn, in batches of 64. A run has failed where a logged value is not finite, and collapsed
where the spread of what the averaged generator draws is under a fifth of that of real images, or
two of the ten digits or more are less than a hundredth each of 2,000 drawn images, which are taken
for the digit of the real image that is nearest in pixels. Beside it stands the share of real images
that drawn ones are near to (`coverage`, Naeem et al., ICML 2020): how good they are by then.
"""

import argparse

import keras
import numpy as np
from sklearn.neighbors import KNeighborsClassifier

import kgen
from kgen.evaluation.metrics import precision_recall_density_coverage
from kgen.models.gan.losses import LOSSES

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--seeds", type=int, default=20)
parser.add_argument("--steps", type=int, default=600)
parser.add_argument("--losses", default=",".join(LOSSES))
args = parser.parse_args()

data = kgen.data.load("digits", validation_fraction=0.0)
images, labels = data.train.images, data.train.labels
epochs = -(-args.steps // (len(images) // 64))


def flat(x):
    return x.reshape(len(x), -1).astype("float32")


nearest = KNeighborsClassifier(1).fit(flat(images), labels)
print(f"{'loss':16} failed collapsed  spread; digits; coverage: least, median and most of each")
for loss in args.losses.split(","):
    failed, spreads, digits, coverages = 0, [], [], []
    for seed in range(args.seeds):
        keras.utils.set_random_seed(seed)
        model = kgen.models.DCGAN.from_preset("dcgan_8x8", filters=32, loss=loss, seed=seed)
        model.compile()
        history = model.fit(images, batch_size=64, epochs=epochs, verbose=0).history
        failed += not np.isfinite(list(history.values())).all()
        drawn = model.generate(2000, seed=seed, batch_size=500, progress=False)
        spreads.append(drawn.std(0).mean() / images.std(0).mean())
        shares = np.bincount(nearest.predict(flat(drawn)), minlength=10) / len(drawn)
        digits.append(np.count_nonzero(shares >= 0.01))
        found = precision_recall_density_coverage(flat(images), flat(drawn))
        coverages.append(found["coverage"])
        keras.backend.clear_session()
    spreads, digits, coverages = np.array(spreads), np.array(digits), np.array(coverages)
    collapsed = np.mean((spreads < 0.2) | (digits < 9))
    said = "; ".join(
        f"{x.min():.2g} {np.median(x):.2g} {x.max():.2g}" for x in (spreads, digits, coverages)
    )
    print(f"{loss:16} {failed:6} {collapsed:9.0%}  {said}", flush=True)
