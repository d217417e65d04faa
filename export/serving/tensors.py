"""From what a request says to arrays that an endpoint takes, held to the manifest's ranges."""

import io

import numpy as np

from export import manifest as schema
from export.serving.errors import bad

_WORDS = {"u": "integers", "i": "integers", "f": "numbers"}


def checked(name, spec, values):
    """Rows of one input, as its array `[B, ...]`; a `RequestError` where they are none."""
    dtype = np.dtype(spec["dtype"])
    shape = tuple(spec["shape"][1:])
    if isinstance(values, np.ndarray):
        array = values
    elif values == []:
        array = np.zeros((0, *schema.row_shape(spec)), dtype)
    else:
        array = _array(name, values, dtype)
    if array.ndim == 0 or not _fits(array.shape[1:], shape):
        raise bad(
            f"{name} should have the shape {_said(('rows', *shape))}. "
            f"Received: {_said(array.shape)}"
        )
    low, high = spec["minimum"], spec["maximum"]
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            array = array.astype(dtype)
        if not np.isfinite(array).all():
            raise bad(f"{name} should be finite numbers. Received: NaN or infinity")
        # The ends as the dtype has them: 1e-6 in float32 is less than it is in float64.
        low, high = (end if end is None else dtype.type(end) for end in (low, high))
    wrong = np.zeros(array.shape, bool)
    if low is not None:
        wrong |= array < low
    if high is not None:
        wrong |= array > high
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise bad(f"{name} should be {_ends(spec)}. Received: {array[place]} in row {place[0]}")
    return np.ascontiguousarray(array, dtype)


def _array(name, values, dtype):
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):  # rows of unequal lengths, or integers of many digits
        raise bad(f"{name} should be an array: its rows have unequal shapes.") from None
    kinds = "iu" if dtype.kind in "iu" else "iuf"
    if array.dtype.kind not in kinds:
        raise bad(f"{name} should be {_WORDS[dtype.kind]}. Received: {_short(values)}")
    return array


def _fits(shape, wanted):
    """Whether a row has the shape that is wanted, of which sides with names are free, but not 0."""
    return len(shape) == len(wanted) and all(
        (side > 0) if isinstance(other, str) else side == other
        for side, other in zip(shape, wanted, strict=True)
    )


def decoded(name, spec, png, most_pixels=2**24):
    """One picture, a PNG's bytes, as an array `[H, W, C]`, or `[H, W]` of 0 and 1 for a mask.

    Its size is looked at before its pixels are decoded, so that none is large.
    """
    import PIL.Image

    mask = schema.picture(spec["dtype"], tuple(spec["shape"])) == "mask"
    height, width, *channels = spec["shape"][1:]
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels[0] if channels else 1]
    try:
        with PIL.Image.open(io.BytesIO(png), formats=("PNG",)) as picture:
            if schema.is_free(spec):
                width, height = picture.size
                if width * height > most_pixels:
                    raise bad(
                        f"{name} should have at most {most_pixels:,} pixels. Received: "
                        f"{width} x {height}"
                    )
            if picture.size != (width, height):
                raise bad(
                    f"{name} should be {width} x {height} pixels. Received: "
                    f"{picture.size[0]} x {picture.size[1]}"
                )
            array = np.asarray(picture.convert(mode))
    except PIL.Image.DecompressionBombError:
        raise bad(
            f"{name} should be {width} x {height} pixels. Received: millions of them"
        ) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise bad(f"{name} should be a PNG, which it is not, or a damaged one.") from error
    if mask:
        return (array > 127).astype("uint8")
    return array.reshape(height, width, *channels)


def encoded(array, claim):
    """An image as a PNG's bytes, with the mark of its `kgen.origin.Claim`."""
    from kgen.images import encode_png

    return encode_png(array, claim)


def rows(specs, inputs):
    """Inputs by name, held to their ranges, all of one number of rows; and that number."""
    arrays = {name: checked(name, specs[name], values) for name, values in inputs.items()}
    sizes = {len(array) for array in arrays.values()}
    if len(sizes) != 1:
        said = ", ".join(f"{name}: {len(array)}" for name, array in arrays.items())
        raise bad(f"All inputs should have as many rows as the others. Received: {said}")
    [size] = sizes
    if size == 0:
        raise bad("At least one row is needed. Received: none")
    return arrays, size


def check_names(names, specs, taken=()):
    """Every input is there that has no default, and no other."""
    if unknown := sorted(set(names) - set(specs)):
        hint = f" It is an option: call {taken[unknown[0]]}." if unknown[0] in taken else ""
        raise bad(f"There is no input {_short(unknown[0])}; there are {', '.join(specs)}.{hint}")
    required = [name for name, spec in specs.items() if spec.get("default") is None]
    if missing := [name for name in required if name not in names]:
        raise bad(f"The input {missing[0]} is missing.")


def _said(shape):
    return "[" + ", ".join(map(str, shape)) + "]"


def _ends(spec):
    low, high = (
        int(end) if end is not None and float(end).is_integer() else end
        for end in (spec["minimum"], spec["maximum"])
    )
    if None in (low, high):
        return f"at least {low}" if high is None else f"at most {high}"
    return f"{low} to {high}"


def _short(value):
    said = repr(value)
    return said if len(said) <= 60 else f"{said[:60]}..."
