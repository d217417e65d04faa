"""What rounded weights cost: images of an artifact's `onnx_fp16` and `onnx_int8` against `onnx`.

    kgen export RUN -o ARTIFACT --formats onnx,onnx_fp16,onnx_int8
    python benchmarks/rounded_weights.py ARTIFACT [--limit 10000] [--features auto]

Draws the same seeds from each, classes in turn, and prints the size of the files, the mean and the
largest difference in grey levels, the share of equal pixels, milliseconds for a batch (rounds
interleaved), and the Fréchet distance of the images to those of `onnx`. The floor beside it is
that of `onnx` with other seeds: what is far below it tells the images of two formats apart less
than chance tells two draws apart.
"""

import argparse
import statistics
import time

import numpy as np

import export
from kgen.evaluation import features, metrics

FORMATS = ("onnx", "onnx_fp16", "onnx_int8")
BATCH = 50


def draw(artifact, formats, seeds):
    """Images by format, and milliseconds for a batch, the median."""
    sessions = {name: artifact.onnx_session(format=name) for name in formats}
    images, times = ({name: [] for name in formats} for _ in range(2))
    label = artifact.endpoints["generate"]["inputs"].get("label")
    for start in range(0, len(seeds), BATCH):
        batch = seeds[start : start + BATCH]
        inputs = {"seed": batch}
        if label:
            inputs["label"] = batch % np.int32(label["maximum"] + 1)
        for name, session in sessions.items():
            before = time.perf_counter()
            images[name].append(session.run(["image"], inputs)[0])
            times[name].append(time.perf_counter() - before)
    images = {name: np.concatenate(parts) for name, parts in images.items()}
    return images, {name: 1e3 * statistics.median(spent) for name, spent in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("artifact")
    parser.add_argument("--limit", type=int, default=10000, help="images of each")
    parser.add_argument("--features", default="auto", help="as for kgen evaluate")
    args = parser.parse_args()
    artifact = export.load(args.artifact)
    formats = [name for name in FORMATS if name in artifact.formats]
    images, times = draw(artifact, formats, np.arange(args.limit, dtype="int32"))
    others, _ = draw(artifact, ["onnx"], np.arange(args.limit, 2 * args.limit, dtype="int32"))

    extractor = features.get(args.features, images["onnx"].shape[1:])
    extracted = {
        name: features.extract(extractor, array, cache=False) for name, array in images.items()
    }
    reference = metrics.Statistics(extracted["onnx"])
    floor = features.extract(extractor, others["onnx"], cache=False)
    print(f"{artifact.name}: {args.limit} images, FD-{extractor.name}, batches of {BATCH}")
    print(f"other seeds: FD {metrics.frechet_distance(reference, floor):.4g}")
    for name in formats:
        size = sum(
            file["size"]
            for path, file in artifact.manifest["files"].items()
            if path.startswith(f"{name}/")
        )
        difference = np.abs(images[name].astype(int) - images["onnx"].astype(int))
        print(
            f"{name}: {size:,} bytes, {times[name]:.1f} ms, mean difference "
            f"{difference.mean():.4f}, largest {difference.max()}, equal "
            f"{np.mean(difference == 0):.2%}, "
            f"FD {metrics.frechet_distance(reference, extracted[name]):.4g}"
        )


if __name__ == "__main__":
    main()
