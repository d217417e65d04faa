"""How good a translator is: figures of pairs on held-out truth, beside those that make them
readable, and pictures with input, output and truth side by side.
"""

import functools
import importlib.util
import time

import keras
import numpy as np
from keras import ops

from kgen.evaluation import pairs, pictures
from kgen.generation import row_seeds
from kgen.images import over_white
from kgen.layers import perceptual
from kgen.layers.scaling import scale_images
from kgen.models.translation.base import Translator
from kgen.models.translation.style_transfer import StyleTransfer
from kgen.training.step import compile_function

#: So many answers are drawn to an input, of so many inputs, where they differ.
_VARIANTS, _OPEN_INPUTS = 4, 32


def is_translator(model):
    """Whether a model makes images of images, and is measured by this module."""
    return isinstance(model, Translator)


def colourfulness(images):
    """The mean of how colourful images are, 0 for grey: Hasler and Süsstrunk, "Measuring
    colourfulness in natural images" (SPIE 2003), equation 5.

    Of uint8 `[N, H, W, C]`, what is transparent over white; `None` for grey ones.
    """
    if images.shape[-1] < 3:
        return None
    red, green, blue = np.moveaxis(over_white(images).astype("float32"), -1, 0)
    first, second = red - green, (red + green) / 2 - blue
    spread = np.sqrt(first.var(axis=(1, 2)) + second.var(axis=(1, 2)))
    centre = np.sqrt(first.mean(axis=(1, 2)) ** 2 + second.mean(axis=(1, 2)) ** 2)
    return float(np.mean(spread + 0.3 * centre))


def perceptual_distance(images, truth, features="general_cnn", layers=None, batch_size=64):
    """How far images are from others by perceptual features, float32 `[N]`, 0 for equal ones.

    Of uint8 `[N, H, W, C]` and as many; see `kgen.layers.perceptual.distance`.
    """
    measure = _compiled_distance(features, layers)
    parts = []
    for start in range(0, len(images), batch_size):
        rows = [
            ops.convert_to_tensor(np.asarray(each[start : start + batch_size]))
            for each in (images, truth)
        ]
        parts.append(ops.convert_to_numpy(measure(*rows)))
    return np.concatenate(parts)


@functools.cache  # a report measures several sets of images
def _compiled_distance(features, layers):
    found = perceptual.PerceptualFeatures(features, layers)
    return compile_function(
        found.network,
        lambda one, other: perceptual.distance(found, scale_images(one), scale_images(other)),
        keras.backend.backend() == "jax",
    )


def of_pairs(images, truth):
    """The figures of pairs of uint8 images `[N, H, W, C]` and as many true ones: a dict for JSON.

    Means over the pairs of `psnr`, in dB (of images that are met exactly 60), `ssim` (sides of 11
    pixels or more) and `ms_ssim` (161 or more) where TensorFlow is installed, and `perceptual`;
    what is transparent lies over white.
    """
    images, truth = over_white(images), over_white(truth)
    side = min(images.shape[1:3]) if importlib.util.find_spec("tensorflow") else 0
    figures = {"psnr": float(np.mean(np.minimum(pairs.psnr(images, truth), 60)))}
    if side >= 11:
        figures["ssim"] = float(np.mean(pairs.ssim(images, truth)))
    if side >= 161:
        figures["ms_ssim"] = float(np.mean(pairs.ms_ssim(images, truth)))
    figures["perceptual"] = float(np.mean(perceptual_distance(images, truth)))
    return figures


def measure(model, split, reference=None, baseline=None, options=None, seed=0, batch_size=64):
    """Translates a held-out split, and measures it.

    Args:
        model: `Translator`.
        split: `kgen.data.Split` that it takes.
        reference: `kgen.evaluation.Reference` of the true images, for the Fréchet distance, or
            `None`.
        baseline: Another `Translator` of the same inputs, such as a `Restorer`, or `None`.
        options: Dict of options of the model's `sample`.
        seed: Int, of what is degraded and drawn.
        batch_size: Int.

    Returns:
        Tuple of a dict for JSON and of arrays by name, `"inputs"`, `"truth"` and an array of images
        for each row. The dict has `"rows"`, dicts of `"name"` and of the figures that can be had:
        the model's own, the input as it is, where pixels are hidden also with their mean in their
        place, the baseline's and the truth's own; `"cycle"`, the mean
        absolute error of going there and back, in grey levels, of a model that goes both ways;
        `"spread"`, the mean deviation of several answers to an input, in grey levels, of a model
        that draws them; and `"sampling"`, see `evaluate`.
    """
    split = model.check_split(split)
    truth = np.asarray(split.images)
    if isinstance(model, StyleTransfer):
        return _of_styles(model, split, options or {}, batch_size)
    inputs = model.inputs_of(split, seed=seed)
    run = {"batch_size": batch_size, **(options or {})}
    seeds = row_seeds(len(inputs), seed)
    translated, sampling = _timed(
        lambda rows: model.translate(inputs[rows], seeds=seeds[rows], **run),
        len(inputs),
        batch_size,
    )
    found = {"model": translated, "input": model.guesses(inputs)}
    if model.degrade is not None and model.degrade.keeps_known:
        found["mean"] = mean_filled(inputs)
    if baseline is not None:
        if baseline.input_shape != model.input_shape or baseline.image_shape != model.image_shape:
            raise ValueError(
                f"The baseline must take {model.input_shape} and give {model.image_shape}, as the "
                f"model does. Received: {baseline.input_shape} and {baseline.image_shape}"
            )
        found["baseline"] = baseline.translate(inputs, seeds=seeds, batch_size=batch_size)
    rows = []
    paired = split.paired and len(inputs) == len(truth)
    for name, images in {**found, "truth": truth}.items():
        row = {"name": name}
        if paired and name != "truth":
            row |= of_pairs(images, truth)
        # Of fewer images than features there is none to rely on.
        measurable = reference is not None and not reference.left_out(len(images), None, ["fd"])
        if measurable and name != "truth":
            measured = reference.measure(images, None, ["fd"], floor=False)
            [row["fd"]] = (entry["value"] for entry in measured["metrics"].values())
        row["colourfulness"] = colourfulness(images)
        rows.append({key: value for key, value in row.items() if value is not None})
    figures = {"rows": rows, "sampling": sampling}
    if "translate_back" in model.endpoints():
        back = model.translate_back(translated, batch_size=batch_size)
        figures["cycle"] = float(np.mean(np.abs(back.astype("float32") - inputs)))
    arrays = {"inputs": inputs, "truth": truth, **found}
    if model.draws:
        few = inputs[:_OPEN_INPUTS]
        arrays["variants"] = model.variants(few, _VARIANTS, seed, **run)
        figures["spread"] = float(arrays["variants"].astype("float32").std(axis=1).mean())
    return figures, arrays


def mean_filled(inputs):
    """uint8 images `[N, H, W, C]` of inputs whose last channel is 255 where a pixel is known: what
    is hidden is the mean of what is known of its image.
    """
    known, pixels = inputs[..., -1:] > 127, inputs[..., :-1]
    counts = np.maximum(known.sum(axis=(1, 2), keepdims=True), 1)
    means = (pixels * known).sum(axis=(1, 2), keepdims=True, dtype="float64") / counts
    return np.where(known, pixels, np.round(means)).astype("uint8")


def _of_styles(model, split, options, batch_size):
    """`measure` of a model that takes a style beside the image."""
    count = min(len(split.inputs), len(split.images))
    contents, styles = (np.asarray(x[:count]) for x in (split.inputs, split.images))
    made, sampling = _timed(
        lambda rows: model.stylize(contents[rows], styles[rows], batch_size=batch_size, **options),
        count,
        batch_size,
    )
    rows = [
        {"name": name, "colourfulness": colourfulness(images)}
        for name, images in (("model", made), ("input", contents), ("style", styles))
    ]
    rows = [{key: value for key, value in row.items() if value is not None} for row in rows]
    arrays = {"inputs": contents, "truth": styles, "model": made, "input": contents}
    return {"rows": rows, "sampling": sampling}, arrays


def _timed(translate, count, batch_size):
    """What `translate` makes of all rows, and how fast."""
    batch_size = min(batch_size, count)
    start = time.perf_counter()
    translate(slice(batch_size))
    compiled = time.perf_counter()
    images = translate(slice(None))
    return images, {
        "images_per_second": count / (time.perf_counter() - compiled),
        "batch_size": batch_size,
        "seconds_for_the_first_batch": compiled - start,
        "backend": keras.backend.backend(),
    }


def shown(arrays, count=12):
    """Pictures of what `measure` has translated, for the report: slug to title, caption, image."""
    rows = slice(count)
    columns = [("the input", arrays["input"]), ("what the model makes of it", arrays["model"])]
    if "baseline" in arrays:
        columns.append(("what the baseline makes of it", arrays["baseline"]))
    columns.append(("the truth", arrays["truth"]))
    parts = [over_white(images[rows]) for _, images in columns]
    said = ", ".join(name for name, _ in columns)
    if parts[1].shape == parts[-1].shape:
        difference = np.abs(parts[1].astype("int16") - parts[-1])
        parts.append((255 - difference).astype("uint8"))
        said += ", and how the model's differs from the truth: white is not at all"
    found = {
        "translations": {
            "title": "Translations",
            "caption": f"The first held-out images, a row each: {said}.",
            "image": pictures.beside(parts),
        }
    }
    if "variants" in arrays:
        drawn = arrays["variants"][rows]
        spread = drawn.astype("float32").std(axis=1)
        answers = [over_white(drawn[:, number]) for number in range(drawn.shape[1])]
        spread = over_white(255 - np.clip(2 * spread, 0, 255).astype("uint8"))
        parts = [over_white(arrays["input"][rows]), *answers, spread]
        found["variants"] = {
            "title": "Several answers",
            "caption": "A row for each input: the input, answers by several seeds, and their "
            "deviation: white where they agree, black from half of the range on.",
            "image": pictures.beside(parts),
        }
    return found


def names_of(model, baseline=None):
    """What the rows of `measure` are called for a reader: a dict."""
    enlarged = ", enlarged by bicubic interpolation" if model.scale > 1 else " as it is"
    return {
        "model": type(model).__name__,
        "input": f"the input{enlarged}",
        "mean": "the input, the mean of what is known in what is hidden",
        "baseline": f"baseline, {type(baseline).__name__}",
        "style": "the style",
        "truth": "the truth",
    }
