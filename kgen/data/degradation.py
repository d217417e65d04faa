"""Degradations: from clean images and seeds to what a restorer is given, made in the graph.

A degradation is a chain of steps, written as `"blur:0.5-2,noise:5-25,jpeg:40-90"`: names of
`DEGRADATIONS`, most with a number or a range, of which every row draws its own from its seed.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Sequence

import numpy as np
from keras import ops

from kgen import random
from kgen.checks import check_image_shape, check_seed, unknown_name
from kgen.data.splits import check_images

# What tells a degradation's draws from a model's, of the same seeds.
_FOLD = 0x64656772


@dataclasses.dataclass(frozen=True)
class Step:
    """A step of a degradation: one of `DEGRADATIONS`, and the range of its number.

    `low` and `high` are floats, `None` where the step takes no number.
    """

    name: str
    low: float | None = None
    high: float | None = None

    @property
    def kind(self):
        return DEGRADATIONS[self.name]

    def __str__(self):
        if self.low is None:
            return self.name
        ends = [f"{end:g}" for end in dict.fromkeys((self.low, self.high))]
        return f"{self.name}:{'-'.join(ends)}"


class Degradation:
    """A function of uint8 images `[B, H, W, C]` and int32 seeds `[B]` to what is left of them.

    Row *i* of the result depends on row *i* of the images and of the seeds alone. Between the steps
    grey levels are float32, cut to 0 to 255; the result is rounded to uint8. Alpha channels keep
    clear of noise and of JPEG, and colours count as much as they are opaque where pixels are mixed.

    Args:
        text: String, steps of `DEGRADATIONS` with commas between, or a `Degradation`.

    Raises:
        ValueError: There is no such step, or a number is missing, out of range or too much.

    Example:

    >>> spoil = kgen.data.Degradation("blur:0.5-2,noise:5-25")
    >>> spoil(images, seeds)
    """

    def __init__(self, text):
        self.steps = tuple(_parsed(step) for step in str(text).split(","))
        for step in self.steps[:-1]:
            if step.kind.hides:
                raise ValueError(
                    f"{step.name} adds a channel that says what is known, and comes last. "
                    f"Received: {text}"
                )

    def __str__(self):
        return ",".join(map(str, self.steps))

    @property
    def hides(self):
        """Bool, whether pixels are hidden, of which a last channel says where: 255 is known."""
        return self.steps[-1].kind.hides

    @property
    def keeps_known(self):
        """Bool, whether what is not hidden is left as it was, to the last bit."""
        return self.hides and len(self.steps) == 1

    def output_shape(self, image_shape):
        """The shape `(h, w, c)` of what is left of images `(H, W, C)`.

        A `ValueError` where a step does not take such images.
        """
        shape = check_image_shape(image_shape)
        for step in self.steps:
            shape = step.kind.shape(step, shape)
        return shape

    def __call__(self, images, seeds):
        self.output_shape(images.shape[1:])
        x = ops.cast(images, "float32")
        seeds = random.fold_in(seeds, _FOLD)
        for number, step in enumerate(self.steps):
            own = random.fold_in(seeds, number)
            amount = None
            if step.low is not None:
                share = random.uniform(own, (1, 1, 1))
                amount = step.low + np.float32(step.high - step.low) * share
            x = ops.clip(step.kind.apply(x, step, amount, own), 0.0, 255.0)
        return ops.cast(ops.floor(x + 0.5), "uint8")


def degrade(
    images: np.ndarray,
    degradation: str,
    seed: int = 0,
    *,
    seeds: Sequence[int] | None = None,
    batch_size: int = 256,
) -> np.ndarray:
    """Degrades images: what a model with this degradation is trained to undo.

    Args:
        images: uint8 array `[N, H, W, C]`.
        degradation: String, such as `"noise:25"` or `"blur:0.5-2,jpeg:40-90"`, see `DEGRADATIONS`.
        seed: Int, of which every image gets one of its own.
        seeds: Sequence of ints, one for each image, in place of `seed`.
        batch_size: Int, images at a time.

    Returns:
        uint8 array `[N, h, w, c]`: smaller after `area` and `bicubic`, with one channel for three
        after `grey`, and with one more after `box` and `strokes`: 255 where a pixel is known.

    Raises:
        ValueError: There is no such degradation, or it does not take such images.

    Example:

    >>> kgen.data.degrade(images, "bicubic:2").shape     # of uint8 [10, 32, 32, 3]
    (10, 16, 16, 3)
    """
    check_images(images, "images")
    degradation = Degradation(degradation)
    if seeds is None:
        seeds = ops.convert_to_numpy(random.row_seeds(check_seed(seed), len(images)))
    seeds = np.array([check_seed(each) for each in seeds], "int32")
    if len(seeds) != len(images):
        raise ValueError(
            f"seeds must be one for each of {len(images)} images. Received: {len(seeds)}"
        )
    shape = degradation.output_shape(images.shape[1:])
    found = np.empty((len(images), *shape), "uint8")
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        batch = ops.convert_to_tensor(np.asarray(images[rows]))
        found[rows] = ops.convert_to_numpy(degradation(batch, ops.convert_to_tensor(seeds[rows])))
    return found


_STEP = re.compile(r"([a-z]+)(?::(\d+\.?\d*|\.\d+)(?:-(\d+\.?\d*|\.\d+))?)?")


def _parsed(text):
    match = _STEP.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            "A degradation is steps such as noise:25 or blur:0.5-2, with commas between. "
            f"Received: {text!r}"
        )
    name, low, high = match.groups()
    if name not in DEGRADATIONS:
        raise ValueError(unknown_name("degradation", name, DEGRADATIONS))
    kind = DEGRADATIONS[name]
    if kind.bounds is None:
        if low is not None:
            raise ValueError(f"{name} takes no number. Received: {text}")
        return Step(name)
    if low is None:
        raise ValueError(f"{name} takes {kind.number}, such as {name}:{kind.example}.")
    low = float(low)
    high = low if high is None else float(high)
    least, most = kind.bounds
    whole = not kind.whole or (low == high and low.is_integer())
    if not (least <= low <= high <= most and whole):
        said = "one int" if kind.whole else "a number, or a range from low to high,"
        raise ValueError(
            f"{name} takes {kind.number}: {said} within {least:g} to {most:g}. Received: {text}"
        )
    return Step(name, low, high)


# Steps: what they do to float32 images `[B, H, W, C]` of 0 to 255 ------------------------------


def _has_alpha(x):
    return x.shape[-1] in (2, 4)


def _on_colours(apply):
    """A step that leaves the alpha channel as it is."""

    def applied(x, step, amount, seeds):
        if not _has_alpha(x):
            return apply(x, step, amount, seeds)
        return ops.concatenate([apply(x[..., :-1], step, amount, seeds), x[..., -1:]], axis=-1)

    return applied


def _premultiplied(apply):
    """A step that mixes pixels, of colours as much as they are opaque."""

    def applied(x, step, amount, seeds):
        if not _has_alpha(x):
            return apply(x, step, amount, seeds)
        alpha = x[..., -1:]
        x = ops.concatenate([x[..., :-1] * alpha * np.float32(1 / 255), alpha], axis=-1)
        x = apply(x, step, amount, seeds)
        alpha = x[..., -1:]
        return ops.concatenate([x[..., :-1] * 255.0 / ops.maximum(alpha, 1.0), alpha], axis=-1)

    return applied


@_premultiplied
def _area(x, step, amount, seeds):
    factor = int(step.low)
    _, height, width, channels = x.shape
    parts = (-1, height // factor, factor, width // factor, factor, channels)
    return ops.mean(ops.reshape(x, parts), axis=(2, 4))


@_premultiplied
def _bicubic(x, step, amount, seeds):
    down, across = (_bicubic_matrix(side, int(step.low)) for side in x.shape[1:3])
    return ops.einsum("oh,bhwc,pw->bopc", down, x, across)


@functools.cache
def _bicubic_matrix(size, factor):
    """float32 `[size / factor, size]`: Keys's kernel (1981, a = -1/2), widened by the factor."""
    centres = (np.arange(size // factor) + 0.5) * factor
    distance = np.abs(np.arange(size) + 0.5 - centres[:, None]) / factor
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype("float32")


@_premultiplied
def _blur(x, step, amount, seeds):
    radius = max(1, math.ceil(3 * step.high))
    places = np.arange(-radius, radius + 1, dtype="float32")
    scale = 0.5 / ops.maximum(ops.square(amount[:, :, 0]), 1e-6)  # (B, 1, 1)
    weights = ops.exp(-scale * np.square(places))  # (B, 1, 2 radius + 1)
    weights = weights / ops.sum(weights, axis=-1, keepdims=True)
    for axis in (1, 2):
        size = x.shape[axis]
        indices = np.clip(np.arange(-radius, size + radius), 0, size - 1)  # the border is repeated
        padded = ops.take(x, indices, axis=axis)
        x = 0.0
        for number in range(2 * radius + 1):
            rows = slice(number, number + size)
            part = padded[:, rows] if axis == 1 else padded[:, :, rows]
            x = x + weights[:, :, number : number + 1, None] * part
    return x


@_on_colours
def _noise(x, step, amount, seeds):
    return x + amount * random.normal(seeds, x.shape[1:], stream=1)


#: Up to this mean, counts are drawn by the inverse of the distribution function, to the last one;
#: beyond, by the nearest normal one, which is off by under 0.01 in any probability.
_MOST_EXACT = 64


@_on_colours
def _poisson(x, step, amount, seeds):
    mean = x * np.float32(1 / 255) * amount
    chance = random.uniform(seeds, x.shape[1:], stream=1)
    largest = min(step.high, _MOST_EXACT)
    small = ops.minimum(mean, largest)

    def next_count(k, state):
        probability, below, count = state
        count = count + ops.cast(chance > below, "float32")
        probability = probability * small / (ops.cast(k, "float32") + 1)
        return probability, below + probability, count

    most = math.ceil(largest + 7 * math.sqrt(largest) + 7)
    none = ops.exp(-small)
    *_, count = ops.fori_loop(0, most, next_count, (none, none, ops.zeros_like(x)))
    if step.high > _MOST_EXACT:
        normal = random.normal(seeds, x.shape[1:], stream=2)
        many = ops.maximum(ops.floor(mean + ops.sqrt(mean) * normal + 0.5), 0.0)
        count = ops.where(mean > _MOST_EXACT, many, count)
    return 255.0 * count / amount


#: Quantisation tables of luminance and of chrominance: ITU-T T.81 (1992), annex K.
_LUMINANCE = np.array(
    [
        *([16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55]),
        *([14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62]),
        *([18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92]),
        *([49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99]),
    ],
    "float32",
)
_CHROMINANCE = np.full((8, 8), 99, "float32")
_CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
_COSINES = np.cos(np.pi / 8 * (np.arange(8) + 0.5) * np.arange(8)[:, None]) / 2
_COSINES[0] *= math.sqrt(0.5)
_COSINES = _COSINES.astype("float32")  # orthonormal
_TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], "float32"
)


@_on_colours
def _jpeg(x, step, amount, seeds):
    """Baseline JPEG with libjpeg's scaling of the tables, colours at half of the resolution."""
    quality = ops.floor(amount + 0.5)
    scale = ops.where(quality < 50, 5000 / quality, 200 - 2 * quality)[..., 0]  # (B, 1, 1)
    height, width, channels = x.shape[1:]
    x = ops.floor(x + 0.5)
    if channels == 1:
        x = _blocks_of_8(_edge_padded(x, 8), scale, _LUMINANCE)
        return x[:, :height, :width]
    offset = np.array([0, 128, 128], "float32")
    x = _edge_padded(ops.floor(ops.matmul(x, _TO_YCC.T) + offset + 0.5), 16)
    luminance = _blocks_of_8(x[..., :1], scale, _LUMINANCE)
    colours = ops.reshape(x[..., 1:], (-1, x.shape[1] // 2, 2, x.shape[2] // 2, 2, 2))
    colours = ops.floor(ops.mean(colours, axis=(2, 4)) + 0.5)
    colours = _blocks_of_8(colours, scale, _CHROMINANCE)
    for axis in (1, 2):
        colours = _twice(colours, axis)
    x = ops.concatenate([luminance, colours], axis=-1) - offset
    back = np.linalg.inv(_TO_YCC.astype("float64")).T.astype("float32")
    return ops.floor(ops.matmul(x, back) + 0.5)[:, :height, :width]


def _edge_padded(x, multiple):
    """Repeats the last row and column until sides are multiples."""
    for axis in (1, 2):
        size = x.shape[axis]
        whole = -(-size // multiple) * multiple
        if whole > size:
            x = ops.take(x, np.minimum(np.arange(whole), size - 1), axis=axis)
    return x


def _blocks_of_8(x, scale, table):
    """Every block of 8x8 as its rounded cosine coefficients have it."""
    _, height, width, channels = x.shape
    # (B, H / 8, 8, W / 8, 8, C) to (B, H / 8, W / 8, C, 8, 8)
    x = ops.reshape(x - 128.0, (-1, height // 8, 8, width // 8, 8, channels))
    x = ops.transpose(x, (0, 1, 3, 5, 2, 4))
    steps = ops.clip(ops.floor((table * scale + 50) / 100), 1.0, 255.0)  # (B, 8, 8)
    steps = steps[:, None, None, None]
    coefficients = ops.matmul(ops.matmul(_COSINES, x), _COSINES.T)
    coefficients = ops.floor(coefficients / steps + 0.5) * steps
    x = ops.matmul(ops.matmul(_COSINES.T, coefficients), _COSINES)
    x = ops.reshape(ops.transpose(x, (0, 1, 4, 2, 5, 3)), (-1, height, width, channels))
    return ops.clip(ops.floor(x + 128.5), 0.0, 255.0)


def _twice(x, axis):
    """Twice the size along an axis, by three parts of the nearest pixel and one of the next."""
    size = x.shape[axis]
    before = ops.take(x, np.maximum(np.arange(size) - 1, 0), axis=axis)
    after = ops.take(x, np.minimum(np.arange(size) + 1, size - 1), axis=axis)
    pairs = ops.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis=axis + 1)
    shape = [-1, *x.shape[1:]]
    shape[axis] *= 2
    return ops.reshape(pairs, shape)


def _hidden(x, hidden):
    """Grey where a mask `[B, H, W]` is true, and a last channel, 255 where it is not."""
    hidden = ops.cast(hidden[..., None], "float32")
    return ops.concatenate([x + hidden * (128.0 - x), 255.0 * (1 - hidden)], axis=-1)


def _box(x, step, amount, seeds):
    """A rectangle at random, of a share of the area, up to twice as wide as high or the reverse."""
    height, width = x.shape[1:3]
    draws = random.uniform(seeds, (3,), stream=1)
    share = amount[:, 0, 0]  # (B, 1)
    tall = ops.sqrt(share * 2 ** (2 * draws[:, :1] - 1))
    tall = ops.clip(tall, share, 1.0)
    sides = (tall * height, share / ops.maximum(tall, 1e-6) * width)
    inside = []
    for number, (size, side) in enumerate(zip((height, width), sides, strict=True)):
        side = ops.floor(side + 0.5)
        first = ops.floor(draws[:, number + 1 : number + 2] * (size - side + 1))
        places = np.arange(size, dtype="float32")
        inside.append(ops.logical_and(places >= first, places < first + side))
    return _hidden(x, ops.logical_and(inside[0][:, :, None], inside[1][:, None]))


#: Corners of a hand's strokes.
_CORNERS = 6


def _strokes(x, step, amount, seeds):
    """A line of a few straight pieces at random, as a brush of a share of the side draws it."""
    height, width = x.shape[1:3]
    draws = random.uniform(seeds, (2, _CORNERS), stream=1)
    down, across = draws[:, 0] * height, draws[:, 1] * width  # (B, corners)
    y = (np.arange(height, dtype="float32") + 0.5)[:, None]
    x_places = (np.arange(width, dtype="float32") + 0.5)[None]
    radius = amount[:, :, :, 0] * (min(height, width) / 2)  # (B, 1, 1)
    hidden = None
    for number in range(_CORNERS - 1):
        (y0, y1), (x0, x1) = (
            (each[:, number, None, None], each[:, number + 1, None, None])
            for each in (down, across)
        )
        length = ops.maximum(ops.square(y1 - y0) + ops.square(x1 - x0), 1e-6)
        along = ((y - y0) * (y1 - y0) + (x_places - x0) * (x1 - x0)) / length
        along = ops.clip(along, 0.0, 1.0)
        distance = ops.square(y - y0 - along * (y1 - y0)) + ops.square(
            x_places - x0 - along * (x1 - x0)
        )
        near = distance < ops.square(radius)
        hidden = near if hidden is None else ops.logical_or(hidden, near)
    return _hidden(x, hidden)


_TO_GREY = np.array([[0.299], [0.587], [0.114]], "float32")


@_on_colours
def _grey(x, step, amount, seeds):
    return ops.matmul(x, _TO_GREY)


# What they make of a shape -----------------------------------------------------------------


def _same(step, shape):
    return shape


def _smaller(step, shape):
    factor = int(step.low)
    if any(side % factor for side in shape[:2]):
        raise ValueError(
            f"{step} takes images whose sides {factor} divides. Received: "
            f"{'x'.join(map(str, shape))}"
        )
    return (shape[0] // factor, shape[1] // factor, shape[2])


def _without_colour(step, shape):
    if shape[2] not in (3, 4):
        raise ValueError(
            f"{step} takes images with colours, 3 or 4 channels. Received: "
            f"{'x'.join(map(str, shape))}"
        )
    return (*shape[:2], shape[2] - 2)


def _with_mask(step, shape):
    if shape[2] not in (1, 3):
        raise ValueError(
            f"{step} adds a channel that says what is known, and takes images with 1 or 3. "
            f"Received: {'x'.join(map(str, shape))}"
        )
    return (*shape[:2], shape[2] + 1)


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a step of a name does.

    Args:
        what: String, half a line for a person.
        apply: Callable of float32 images, the `Step`, its number for every row `[B, 1, 1, 1]` (or
            `None`) and seeds.
        shape: Callable of the `Step` and a shape to the shape of what it gives.
        number: String, what its number is; with
        bounds: tuple, the least and the largest, `None` for a step without a number, and
        example: string.
        whole: Bool, the number is one int for all.
        hides: Bool, pixels are hidden, of which a further channel says where.
    """

    what: str
    apply: Callable
    shape: Callable = _same
    number: str = ""
    bounds: tuple | None = None
    example: str = ""
    whole: bool = False
    hides: bool = False


DEGRADATIONS = {
    "area": Kind(
        "smaller, by the mean of squares of pixels",
        *(_area, _smaller, "a factor", (2, 16), "2"),
        whole=True,
    ),
    "bicubic": Kind(
        "smaller, by bicubic interpolation without aliasing",
        *(_bicubic, _smaller, "a factor", (2, 16), "2"),
        whole=True,
    ),
    "blur": Kind("Gaussian blur", _blur, _same, "a standard deviation in pixels", (0, 16), "0.5-2"),
    "noise": Kind(
        "Gaussian noise", _noise, _same, "a standard deviation in grey levels", (0, 255), "25"
    ),
    "poisson": Kind(
        "Poisson noise of light", _poisson, _same, "photons of a white pixel", (1, 1e5), "30"
    ),
    "jpeg": Kind("JPEG compression", _jpeg, _same, "a quality", (1, 100), "30-90"),
    "box": Kind(
        "a hidden rectangle",
        *(_box, _with_mask, "a share of the area", (0, 1), "0.25"),
        hides=True,
    ),
    "strokes": Kind(
        "hidden strokes of a brush",
        *(_strokes, _with_mask, "the brush's share of the side", (0, 1), "0.1-0.3"),
        hides=True,
    ),
    "grey": Kind("colours taken away", _grey, _without_colour),
}
