"""How often each adversarial loss fails: many seeds, short trainings on 8x8 digits.

python benchmarks/gan_stability.py --seeds 20

A DCGAN (`dcgan_8x8`) with each loss, with its defaults, on the `digits` of scikit-learn. A run has
failed where a logged value is not finite, and collapsed where the spread of what the averaged
generator draws is under a fifth of that of real images, or nearest neighbours in pixels find fewer
than half of the real images among 2,000 drawn ones (`coverage`, Naeem et al., ICML 2020).
"""

import argparse

import keras
import numpy as np

import kgen
from kgen.evaluation.metrics import precision_recall_density_coverage
from kgen.models.gan.losses import LOSSES

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--seeds", type=int, default=20)
parser.add_argument("--steps", type=int, default=1500)
parser.add_argument("--losses", default=",".join(LOSSES))
args = parser.parse_args()

data = kgen.data.load("digits", validation_fraction=0.0)
images = data.train.images
epochs = -(-args.steps // (len(images) // 64))


def flat(x):
    return x.reshape(len(x), -1).astype("float32")


print(f"{'loss':16} {'failed':>6} {'collapsed':>9}  spread and coverage: least, median, most")
for loss in args.losses.split(","):
    failed, spreads, coverages = 0, [], []
    for seed in range(args.seeds):
        keras.utils.set_random_seed(seed)
        model = kgen.models.DCGAN.from_preset("dcgan_8x8", loss=loss, seed=seed)
        model.compile()
        history = model.fit(images, batch_size=64, epochs=epochs, verbose=0).history
        failed += not np.isfinite(list(history.values())).all()
        drawn = model.generate(2000, seed=seed, batch_size=500, progress=False)
        spreads.append(drawn.std(0).mean() / images.std(0).mean())
        found = precision_recall_density_coverage(flat(images), flat(drawn))
        coverages.append(found["coverage"])
        keras.backend.clear_session()
    spreads, coverages = np.array(spreads), np.array(coverages)
    collapsed = np.mean((spreads < 0.2) | (coverages < 0.5))
    said = "; ".join(
        f"{x.min():.2f} {np.median(x):.2f} {x.max():.2f}" for x in (spreads, coverages)
    )
    print(f"{loss:16} {failed:6} {collapsed:9.0%}  {said}", flush=True)
