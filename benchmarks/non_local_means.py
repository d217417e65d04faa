"""A translator that takes noise away beside scikit-image's non-local means, on the same images.

pip install scikit-image
python examples/translation.py restorer --data cifar10 --degrade noise:25 --out runs/denoising
python benchmarks/non_local_means.py runs/denoising/model.keras --data cifar10 --limit 1000

Non-local means (Buades, Coll and Morel, CVPR 2005) is told the deviation of the noise; the other
of its settings is the best of five by images that are not measured.
"""

import argparse
import json
import time

import numpy as np
from skimage.restoration import denoise_nl_means

import kgen
from kgen.evaluation.translation import of_pairs

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("model", help="the .keras file of a translator")
parser.add_argument("--data", required=True)
parser.add_argument("--sigma", type=float, default=25.0, help="of the noise, in grey levels")
parser.add_argument("--limit", type=int, default=1000, help="held-out images to measure")
args = parser.parse_args()

model = kgen.load(args.model)
data = kgen.data.load(args.data, model.image_shape)
rows = np.sort(np.random.default_rng(0).permutation(len(data.test))[: args.limit])
truth = np.asarray(data.test.images[rows])
noisy = kgen.data.degrade(truth, f"noise:{args.sigma:g}")


def non_local_means(images, share):
    sigma = args.sigma / 255
    settings = {"patch_size": 5, "patch_distance": 6, "fast_mode": False, "channel_axis": -1}
    cleaned = [
        denoise_nl_means(image / 255.0, h=share * sigma, sigma=sigma, **settings)
        for image in images
    ]
    return np.clip(np.round(np.stack(cleaned) * 255), 0, 255).astype("uint8")


some = np.asarray(data.train.images[:64])
spoilt = kgen.data.degrade(some, f"noise:{args.sigma:g}", seed=1)
shares = (0.3, 0.5, 0.7, 0.9, 1.1)
best = max(shares, key=lambda share: of_pairs(non_local_means(spoilt, share), some)["psnr"])

model.translate(noisy[:64], batch_size=64)  # compiles
found = {}
for name, clean in (
    ("the noisy input", lambda: noisy),
    ("non-local means", lambda: non_local_means(noisy, best)),
    (type(model).__name__, lambda: model.translate(noisy, batch_size=64)),
):
    start = time.perf_counter()
    images = clean()
    seconds = time.perf_counter() - start
    found[name] = {**of_pairs(images, truth), "seconds": seconds}
print(json.dumps({"images": len(truth), "h / sigma": best, **found}, indent=2))
