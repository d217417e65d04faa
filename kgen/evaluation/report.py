"""`evaluate`: the figures of a model on one split, as a dict for JSON."""

import math
import time

import keras
import numpy as np


def evaluate(
    model,
    split,
    *,
    importance_samples=None,
    batch_size=64,
    num_samples=256,
    seed=0,
    progress="auto",
    verbose=0,
):
    """Measures a model on images that it was not trained on.

    Args:
        model: `ImageGenerator`. One that is not compiled is compiled with its defaults.
        split: `kgen.data.Split`, for instance `data.test`, or uint8 images `[N, H, W, C]`
            for an unconditional model.
        importance_samples: Int, samples per image for the importance-weighted likelihood
            of a model that has one (a VAE), or `None` to leave it out.
        batch_size: Int.
        num_samples: Int, how many images to draw to measure the speed.
        seed: Int, for the noise of the likelihood and of the samples.
        progress: Bool, or `"auto"` for progress bars on long work.
        verbose: As in `keras.Model.evaluate`.

    Returns:
        Dict:

        - `"images"`: how many.
        - `"losses"`: dict of the model's own losses, as in `model.evaluate`.
        - `"reconstruction"`: for a model that reconstructs, the mean absolute and the
          root mean squared error, `"mae"` and `"rmse"`, in grey levels of 0 to 255.
        - `"likelihood"`: with `importance_samples`, `"nats"` per image (the negative
          log-likelihood), `"bits_per_dimension"` and `"importance_samples"`.
        - `"sampling"`: `"images_per_second"` without the first batch, which compiles,
          `"batch_size"` and `"seconds_for_the_first_batch"`.

    Raises:
        ValueError: `importance_samples` is given for a model that has no likelihood, or
            the images are not what the model takes.

    Example:

    >>> report = kgen.evaluation.evaluate(model, data.test, importance_samples=500)
    >>> report["likelihood"]["nats"]
    """
    if importance_samples is not None and not hasattr(model, "negative_log_likelihood"):
        raise ValueError(
            f"{type(model).__name__} has no likelihood. Received: importance_samples="
            f"{importance_samples}. Leave it out."
        )
    if importance_samples is not None and importance_samples < 1:
        raise ValueError(f"importance_samples must be positive. Received: {importance_samples}")
    if not model.compiled:
        model.compile()
    batches = model._batches(split, batch_size=batch_size)
    images, labels = batches.split.images, batches.split.labels
    losses = model.evaluate(split, batch_size=batch_size, return_dict=True, verbose=verbose)
    report = {
        "images": len(images),
        "losses": {name: float(value) for name, value in losses.items()},
    }
    if "reconstruct" in model.endpoints():
        report["reconstruction"] = reconstruction_error(model, images, labels, batch_size)
    if importance_samples is not None:
        nats = model.negative_log_likelihood(
            split,
            importance_samples=importance_samples,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
        )
        nats = float(np.mean(nats, dtype="float64"))
        report["likelihood"] = {
            "nats": nats,
            "bits_per_dimension": nats / math.log(2) / math.prod(model.image_shape),
            "importance_samples": importance_samples,
        }
    report["sampling"] = sampling_speed(model, num_samples, batch_size, seed)
    return report


def reconstruction_error(model, images, labels=None, batch_size=64):
    """How far images are from their reconstructions, in grey levels.

    Args:
        model: `ImageGenerator` with an endpoint `reconstruct`.
        images: uint8 array `[N, H, W, C]`.
        labels: int32 array `[N]` for a class-conditional model.
        batch_size: Int.

    Returns:
        Dict of `"mae"` and `"rmse"`.
    """
    reconstruct = model.endpoints()["reconstruct"].function
    absolute = squared = 0
    for start in range(0, len(images), 4096):  # so that memory does not grow with the data
        rows = slice(start, start + 4096)
        inputs = {"image": np.asarray(images[rows])}
        if labels is not None:
            inputs["label"] = labels[rows]
        result = model.run_batched(
            "reconstruct", reconstruct, inputs, batch_size=batch_size, progress=False
        )
        difference = result["image"].astype("int64") - inputs["image"]
        absolute += np.abs(difference).sum()
        squared += np.square(difference).sum()
    return {
        "mae": float(absolute / images.size),
        "rmse": float(math.sqrt(squared / images.size)),
    }


def sampling_speed(model, n=256, batch_size=64, seed=0):
    """How fast a model draws images.

    Args:
        model: `ImageGenerator`.
        n: Int, how many images to draw.
        batch_size: Int.
        seed: Int.

    Returns:
        Dict, see `evaluate`.
    """
    batch_size = min(batch_size, n)

    def draw(n):
        labels = None if model.num_classes is None else np.arange(n) % model.num_classes
        start = time.perf_counter()
        model.generate(n, labels, seed, batch_size=batch_size, progress=False)
        return time.perf_counter() - start

    first = draw(batch_size)
    return {
        "images_per_second": n / draw(n),
        "batch_size": batch_size,
        "seconds_for_the_first_batch": first,
        "backend": keras.backend.backend(),
    }
