"""What a Fréchet distance orders as a person would: real images against spoiled ones.

    python benchmarks/score_order.py --data mnist.npz
    python benchmarks/score_order.py --data sprites/ --image-shape 64 64 4 --features random_conv

Half of the images stand for the real ones. The others are scored as they are, which is the
floor, and spoiled in several ways, each at levels that a person would put in this order: every
line of the table must rise. A class is left out where the data has classes.
"""

import argparse
import json

import degradations
import numpy as np

import kgen
from kgen.evaluation import features, metrics

#: What is done to images, in what unit, and at which levels.
LADDERS = {
    "blur (pixels)": (degradations.blur, (0.5, 0.8, 1, 2, 4)),
    "noise (grey levels)": (degradations.noise, (8, 16, 32, 64)),
    "palette (degrees)": (degradations.palette, (30, 90, 180)),
    "mixture (others)": (degradations.mixture, (1, 2, 8)),
    "shuffle (tiles a side)": (degradations.shuffle, (2, 4, 8)),
    "shift (pixels)": (degradations.shift, (1, 2, 4)),
    "threshold (grey level)": (degradations.threshold, (128,)),
    "drawn (times)": (degradations.drawn, (1,)),
    "blobs (pixels)": (degradations.blobs, (1, 2, 4)),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="what kgen.data.load takes")
    parser.add_argument("--image-shape", type=int, nargs=3, metavar=("H", "W", "C"))
    parser.add_argument("--features", default="auto", help="as for kgen evaluate")
    parser.add_argument("--limit", type=int, default=10000, help="images at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    shape = args.image_shape and tuple(args.image_shape)
    data = kgen.data.load(args.data, image_shape=shape, validation_fraction=0)
    scores = measure(data.train.images, data.train.labels, args.features, args.limit, args.seed)
    print(json.dumps(scores, indent=2) if args.json else table(scores))


def measure(images, labels, extractor, limit=10000, seed=0):
    """Dict of line to dict of level to Fréchet distance; the extractor's name under `features`."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))[:limit]
    real, others = np.array_split(order, 2)
    extractor = features.get(extractor, images.shape[1:])
    reference = metrics.Statistics(features.extract(extractor, images[np.sort(real)]))

    def distance(some):
        return metrics.frechet_distance(reference, features.extract(extractor, some, cache=False))

    others = np.sort(others)
    as_they_are = np.asarray(images[others])
    scores = {"features": f"FD-{extractor.name}", "images": len(others)}
    scores["none"] = {0: distance(as_they_are)}
    for name, (spoil, levels) in LADDERS.items():
        if spoil is degradations.palette and images.shape[-1] == 1:
            continue
        scores[name] = {
            level: distance(spoil(as_they_are, level, np.random.default_rng(seed)))
            for level in levels
        }
    if labels is not None and np.max(labels) > 0:
        kept = np.asarray(labels)[others]
        classes = np.argsort(-np.bincount(kept))
        scores["largest classes left out"] = {
            count: distance(as_they_are[~np.isin(kept, classes[:count])])
            for count in (1, len(classes) // 2)
        }
    return scores


def table(scores):
    lines = [f"{scores['features']}, {scores['images']} images"]
    for name, by_level in scores.items():
        if isinstance(by_level, dict):
            found = list(by_level.values())
            rises = all(np.diff([scores["none"][0], *found][name == "none" :]) > 0)
            figures = ", ".join(f"{level}: {score:.4g}" for level, score in by_level.items())
            lines.append(f"{'' if rises else 'NOT RISING '}{name}: {figures}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
