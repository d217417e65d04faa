"""`evaluate`: the figures of a model on held-out images, as a dict, and as a page to look at."""

import dataclasses
import functools
import hashlib
import importlib.util
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import keras
import numpy as np

import kgen
from kgen import files
from kgen.checks import check_int, check_seed
from kgen.data.loading import Data
from kgen.data.splits import Split
from kgen.evaluation import page, pairs, pictures, translation
from kgen.evaluation.cost import check_cost, cost_curve
from kgen.evaluation.features import extract
from kgen.evaluation.interpolation import interpolate
from kgen.evaluation.metrics import nearest_neighbours
from kgen.evaluation.reference import METRICS, Reference
from kgen.origin import of_model

Function = TypeVar("Function", bound=Callable[..., Any])

#: The slugs of all pictures that there may be.
PICTURES = (
    *("samples", "classes", "neighbours", "reconstructions", "interpolation"),
    *("translations", "variants"),
)


def _in_its_folder(function: Function) -> Function:
    """Has `evaluate` write into a temporary folder, whose files take their places all together, so
    that new pictures never stand beside old figures.
    """

    @functools.wraps(function)
    def wrapped(*args, folder=None, **kwargs):
        if folder is None:
            return function(*args, **kwargs)
        folder = pathlib.Path(folder)
        _check_folder(folder)
        with files.together(folder, "evaluation") as temporary:
            before = page.written(folder)
            report = function(*args, folder=temporary, **kwargs)
        for name in set(before) - set(page.written(folder)):
            (folder / name).unlink(missing_ok=True)  # a picture that there is no more
        return report

    return cast(Function, wrapped)


def _check_folder(folder):
    """Raises `FileExistsError` where something else than an evaluation would be replaced."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; choose a folder for the evaluation.")
    files.complete(folder, "evaluation")
    names = ["evaluation.json", "report.html"]
    names += [f"report/{slug}.png" for slug in PICTURES]
    own = {*page.written(folder), *files.written(folder)}
    others = [name for name in names if name not in own and os.path.lexists(folder / name)]
    if others:
        raise FileExistsError(
            f"{folder} holds what `kgen evaluate` would replace and has not written: "
            f"{', '.join(others[:3])}. Move it, or choose another folder."
        )


@_in_its_folder
def evaluate(
    model: Any,
    data: Data | Split | np.ndarray,
    train: Split | None = None,
    *,
    split: str = "test",
    num_samples: int = 10_000,
    metrics: Sequence[str] | None = None,
    features: Any = "auto",
    importance_samples: int | None = None,
    options: dict[str, Any] | None = None,
    batch_size: int = 64,
    seed: int = 0,
    force: bool = False,
    cost: bool = False,
    baseline: Any = None,
    folder: str | os.PathLike[str] | None = None,
    history: Sequence[dict[str, Any]] = (),
    path: str | None = None,
    source: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool | str = "auto",
    verbose: int | str = 0,
) -> dict[str, Any]:
    """Measures a model on images that it was not trained on.

    Args:
        model: `ImageGenerator`. One that is not compiled is compiled with its defaults.
        data: `kgen.data.Data`, or one `kgen.data.Split` of it such as `data.test`, or, for
            an unconditional model, uint8 images `[N, H, W, C]`.
        train: `kgen.data.Split` that the model was trained on, for the floor, the gap and
            authenticity; `None` for that of `data`, if it is a `Data`.
        split: `"test"`, `"validation"` or `"train"`, of a `Data`.
        num_samples: Int, how many images to draw; a class-conditional model draws classes
            as often as they occur in `split`.
        metrics: Sequence of names in `kgen.evaluation.METRICS`; `None` for all, `()` for none.
            What cannot be had is left out and named.
        features: What images are compared by, see `kgen.evaluation.features.get`.
        importance_samples: Int, samples per image for the likelihood of a model that has
            only a bound (a VAE); `None` for 1, which is the ELBO.
        options: Dict of options of the model's `sample`, such as `{"draw": True}` for a VAE, whose
            images are else the means of their pixels.
        batch_size: Int.
        seed: Int, for the samples and everything else that is random.
        force: Bool, compute a Fréchet distance of fewer images than features.
        cost: Bool, of a model that takes `num_steps`: also measure what they buy, of up to 2,000
            images for each number and sampler, see `kgen.evaluation.cost_curve`.
        baseline: Of a translator: another one of the same inputs, such as a `Restorer`, whose
            figures stand beside.
        folder: Path where `evaluation.json`, `report.html` and `report/*.png` are written, all
            together when all is done, or `None`. Until then the folder is locked for others.
        history: List of dicts, the rows of a run's `metrics.csv`, whose curves go into
            the report.
        path: String, where the model came from, for the report.
        source: String, where the images came from, if it was not the model's run, for the report.
        cache_dir: Path where features of real images are kept; `None` for kgen's cache.
        progress: Bool, or `"auto"` for progress bars on long work.
        verbose: As in `keras.Model.evaluate`.

    Returns:
        Dict for JSON:

        - `"model"`, `"data"`, `"versions"`: what was evaluated, on what, with what.
        - `"images"`: how many held-out images; `"losses"`: the model's own on them.
        - `"reconstruction"`: for a model that reconstructs, `"mae"` and `"rmse"` in grey
          levels of 0 to 255, `"psnr"` in dB, and for sides of 11 pixels or more `"ssim"`.
        - `"likelihood"`: for a model that has one, `"nats"` per image (negative
          log-likelihood), `"bits_per_dimension"` (`None` for a density), `"kind"` and
          `"protocol"`, which say what the number is; where it takes long, of how many `"images"`
          it is the mean, and its `"standard_error"`.
        - `"sampling"`: `"images_per_second"` without the first batch, which compiles,
          `"batch_size"` and `"seconds_for_the_first_batch"`.
        - All of `Reference.measure`: `"metrics"`, `"left_out"`, `"classes"`, `"warnings"`, ...
        - `"cost"`: with `cost`, see `kgen.evaluation.cost_curve`.
        - `"translation"`: of a translator, whose held-out inputs are translated in place of drawing
          images, see `kgen.evaluation.translation.measure`.
        - `"pictures"`: with `folder`, slug to `title`, `caption` and `file`.

    Raises:
        ValueError: `importance_samples` is given for a model that has no bound, the
            images are not what the model takes, or none of `metrics` can be had.
        FileExistsError: `folder` holds files of such names that no evaluation wrote.
        BlockingIOError: Another process writes an evaluation there.

    Example:

    >>> report = kgen.evaluation.evaluate(model, data, folder="evaluation")
    >>> report["metrics"]["FD-lenet128"]["value"], report["likelihood"]["nats"]
    """
    seed = check_seed(seed)
    if importance_samples is not None:
        known = _likelihood_protocol(model, seed=seed)
        if not known or "importance_samples" not in known:
            has = "a likelihood that takes no importance samples" if known else "no likelihood"
            raise ValueError(
                f"{type(model).__name__} has {has}. Received: importance_samples="
                f"{importance_samples}. Leave it out."
            )
        importance_samples = check_int(1, importance_samples=importance_samples)
    num_samples = check_int(1, num_samples=num_samples)
    batch_size = check_int(1, batch_size=batch_size)
    options = model.check_options(options or {})
    about, test, train, names = _splits(model, data, train, split)
    if source is not None:
        about["source"] = source
    if not model.compiled:
        model.compile()
    checked = model.check_split(test)
    translates = translation.is_translator(model)
    if baseline is not None and not translates:
        raise ValueError(f"baseline is for translators. Received: a {type(model).__name__}")
    if cost:
        check_cost(model, metrics)
    if translates:  # what it makes of the held-out inputs is what is measured
        num_samples = len(checked)
    reference = None
    if metrics is None or len(metrics):
        reference = Reference(
            test,
            train,
            features,
            split=about["split"],
            class_names=names,
            seed=seed,
            cache_dir=cache_dir,
            progress=progress is True,
        )
        labels = None if model.num_classes is None else reference.labels_like(num_samples, seed)
        left_out = reference.left_out(num_samples, labels, metrics, force)
        if metrics is None:
            metrics = [name for name in METRICS if name not in left_out]
        reference.check(num_samples, labels, metrics, force)  # before the long work

    losses = model.evaluate(checked, batch_size=batch_size, return_dict=True, verbose=verbose)
    report = {
        "model": {
            "name": type(model).__name__,
            "path": path,
            "image_shape": list(model.image_shape),
            "num_classes": model.num_classes,
            "parameters": sum(math.prod(v.shape) for v in model.trainable_weights),
        },
        "data": about,
        "images": len(checked),
        "losses": {name: float(value) for name, value in losses.items()},
    }
    if "reconstruct" in model.endpoints():
        report["reconstruction"] = reconstruction_error(
            model, checked.images, checked.labels, batch_size
        )
    if _likelihood_protocol(model) is not None:
        report["likelihood"] = likelihood(
            model, checked, importance_samples or 1, seed, batch_size, progress
        )
    drawn = {}
    if translates:
        of_styles = isinstance(model, translation.StyleTransfer)
        figures, arrays = translation.measure(
            model, checked, reference, baseline, options, seed, batch_size
        )
        report["sampling"] = figures.pop("sampling")
        report["translation"] = {**figures, "names": translation.names_of(model, baseline)}
        if reference is not None and not of_styles:
            report |= _measured(reference, arrays["model"], None, metrics, left_out, force)
            report["samples"] |= {"seed": seed, "options": dict(options)}
        if folder is not None:
            drawn = translation.shown(arrays)
    elif reference is None:
        n = min(num_samples, 256)
        report["sampling"] = draw(model, n, None, seed, batch_size, False, options)[1]
    else:
        images, report["sampling"] = draw(
            model, num_samples, labels, seed, batch_size, progress, options
        )
        report |= _measured(reference, images, labels, metrics, left_out, force)
        report["samples"] = {
            "n": num_samples,
            "seed": seed,
            "labels": None if labels is None else "as frequent as in the reference",
            "options": dict(options),
        }
        if cost:
            report["cost"] = cost_curve(
                *(model, reference, min(num_samples, 2_000), options, seed, batch_size, progress)
            )
        if train is not None and about["split"] != "train":
            report["warnings"] += _not_held_out(test, train)
        if folder is not None:
            drawn = _pictures(model, reference, images, labels, checked, seed, batch_size)
    report["versions"] = {
        "kgen": kgen.__version__,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "numpy": np.__version__,
    }
    if folder is not None:
        folder = pathlib.Path(folder)
        name = None if path is None else pathlib.Path(path).name
        drawn = _marked(drawn, of_model(model, name))
        report["pictures"] = page.write(folder / "report.html", report, drawn, list(history))
        files.write_text(folder / "evaluation.json", json.dumps(report, indent=2) + "\n")
    return report


def _measured(reference, images, labels, metrics, left_out, force):
    """What `Reference.measure` says, and what was left out before."""
    found = reference.measure(images, labels, metrics, force=force)
    found["left_out"] = {reference.title(name): why for name, why in left_out.items()}
    return found


def likelihood(model, split, importance_samples=1, seed=0, batch_size=64, progress="auto"):
    """Negative log-likelihood of a split, and the protocol that it was taken by, see `evaluate`."""
    protocol = _likelihood_protocol(model, importance_samples, seed)
    options = {"seed": seed, "batch_size": batch_size, "progress": progress}
    if "importance_samples" in protocol:
        options["importance_samples"] = importance_samples
    if len(split) > protocol.get("images", len(split)):
        rows = np.sort(np.random.default_rng(seed).permutation(len(split))[: protocol["images"]])
        labels = None if split.labels is None else split.labels[rows]
        split = dataclasses.replace(split, images=split.images[rows], labels=labels)
    found = np.asarray(model.negative_log_likelihood(split, **options), "float64")
    nats, to_bits = float(found.mean()), 1 / math.log(2) / math.prod(model.image_shape)
    discrete = protocol.pop("discrete")
    figures = {"nats": nats, "bits_per_dimension": nats * to_bits if discrete else None}
    if "images" in protocol:
        protocol["images"] = len(split)
        error = float(found.std(ddof=1) / math.sqrt(len(split))) if len(split) > 1 else None
        figures["standard_error"] = error
    return {**figures, **protocol}


def _likelihood_protocol(model, importance_samples=1, seed=0):
    """What a model's likelihood is, see `VariationalGenerator`; `None` where it has none."""
    if not hasattr(model, "likelihood_protocol"):
        return None
    return model.likelihood_protocol(importance_samples, seed)


def reconstruction_error(model, images, labels=None, batch_size=64):
    """How far uint8 images `[N, H, W, C]` are from their reconstructions.

    A dict of `"mae"` and `"rmse"` over all pixels, in grey levels; the mean `"psnr"` in dB
    (`None` where an image is met exactly) and, for sides of 11 pixels or more where TensorFlow
    is installed, the mean `"ssim"`.
    """
    absolute = squared = 0
    quality = {"psnr": [], "ssim": []}
    for start in range(0, len(images), 4096):  # so that memory does not grow with the data
        rows = slice(start, start + 4096)
        original = np.asarray(images[rows])
        result = _reconstruct(model, original, None if labels is None else labels[rows], batch_size)
        difference = result.astype("int64") - original
        absolute += np.abs(difference).sum()
        squared += np.square(difference).sum()
        quality["psnr"].append(pairs.psnr(original, result))
        if _can_ssim(model.image_shape):
            quality["ssim"].append(pairs.ssim(original, result))
    means = {name: float(np.mean(np.concatenate(v))) for name, v in quality.items() if v}
    return {
        "mae": float(absolute / images.size),
        "rmse": float(math.sqrt(squared / images.size)),
        **{name: value if math.isfinite(value) else None for name, value in means.items()},
    }


def draw(model, n, labels=None, seed=0, batch_size=64, progress="auto", options=None):
    """Draws `n` images, and says how fast: uint8 `[n, H, W, C]`, and a dict, see `evaluate`.

    Without `labels` the classes of a class-conditional model take turns.
    """
    batch_size = min(batch_size, n)
    if labels is None and model.num_classes is not None:
        labels = np.arange(n) % model.num_classes
    start = time.perf_counter()
    first = None if labels is None else labels[:batch_size]
    run = {"batch_size": batch_size, **(options or {})}
    model.generate(batch_size, first, seed, progress=False, **run)
    compiled = time.perf_counter()
    images = model.generate(n, labels, seed, progress=progress, **run)
    return images, {
        "images_per_second": n / (time.perf_counter() - compiled),
        "batch_size": batch_size,
        "seconds_for_the_first_batch": compiled - start,
        "backend": keras.backend.backend(),
    }


def _can_ssim(image_shape):
    return min(image_shape[:2]) >= 11 and importlib.util.find_spec("tensorflow") is not None


def _splits(model, data, train, split):
    """What the data is, the held-out split, the training split and the names of classes."""
    if not isinstance(data, Data):
        about = {"name": "images", "split": "held-out", "fingerprint": None}
        test = data if isinstance(data, Split) else model.check_split(data)
        return about, test, train, None
    test = data.split(split)
    if train is None and split != "train":
        train = data.train
    about = {"name": data.name, "split": split, "fingerprint": data.fingerprint}
    return about, test, train, data.class_names


def _not_held_out(test, train):
    """A warning, in a list, where many of the held-out images were trained on."""

    def hashes(images):
        return [hashlib.blake2b(image, digest_size=16).digest() for image in images]

    known = set(hashes(train.images))
    shared = sum(image in known for image in hashes(test.images))
    if shared < 0.1 * len(test):
        return []
    return [
        f"not held out: {shared} of the {len(test)} images are training images too, pixel for "
        "pixel, so that a model which copies scores well. Give images that it was not trained on."
    ]


def _reconstruct(model, images, labels=None, batch_size=64):
    inputs = {"image": images} | ({} if labels is None else {"label": labels})
    function = model.endpoints()["reconstruct"].function
    return model.run_batched(
        "reconstruct", function, inputs, batch_size=batch_size, progress=False
    )["image"]


def _marked(drawn, origin):
    """Pictures with claims of who drew them: without seeds, and of most beside real images."""
    alone = ("samples", "classes", "interpolation")
    return {
        slug: {**picture, "claim": origin.claim(inputs={} if slug in alone else {"image": ""})}
        for slug, picture in drawn.items()
    }


def _pictures(model, reference, images, labels, test, seed, batch_size):
    """What a person wants to see: slug to title, caption and image."""
    found = {
        "samples": {
            "title": "Samples",
            "caption": "The first images drawn: random, not chosen.",
            "image": pictures.samples(images[:128]),
        }
    }
    if labels is not None:
        found["classes"] = {
            "title": "Samples of each class",
            "caption": "The first images drawn for each class, a row each"
            + (f": {', '.join(reference.class_names)}." if reference.class_names else "."),
            "image": pictures.per_class(images, labels, model.num_classes),
        }
    elif reference.knows_classes:
        seen = reference.see(images[:2000])
        found["classes"] = {
            "title": "Samples by class",
            "caption": "The first images drawn, by the class that the classifier of "
            f"{reference.extractor.name} sees, a row each.",
            "image": pictures.per_class(images[:2000], seen, reference.extractor.num_classes),
        }
    if reference.train is not None:
        chosen = images[:8]
        vectors = extract(reference.extractor, chosen, cache=False)
        known = reference.train.features
        _, nearest = nearest_neighbours(vectors, known, k=min(7, len(known)))
        found["neighbours"] = {
            "title": "Nearest training images",
            "caption": "Left, the first images drawn; right of each, the training images nearest "
            f"to it in the features of {reference.extractor.name}. Equal ones mean copying.",
            "image": pictures.neighbours(chosen, reference.train.images, nearest),
        }
    if "reconstruct" in model.endpoints():
        rows = slice(0, 16)
        original = np.asarray(test.images[rows])
        result = _reconstruct(model, original, None if test.labels is None else test.labels[rows])
        found["reconstructions"] = {
            "title": "Reconstructions",
            "caption": "Held-out images, and below each what the model makes of it.",
            "image": pictures.reconstructions(original, result),
        }
    decode = model.endpoints().get("decode")
    if decode is not None and "latent" in decode.inputs:
        between = None if model.num_classes is None else np.arange(6) % model.num_classes
        ways = interpolate(model, 6, 10, seed, labels=between, batch_size=batch_size)
        found["interpolation"] = {
            "title": "Interpolation",
            "caption": "From one latent vector to another, a row each.",
            "image": pictures.ways(ways),
        }
    return found
