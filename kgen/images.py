"""Images on disk: one PNG, a grid of images, a folder of PNGs."""

import io
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from kgen.files import new_folder, replacing


def grid(
    images: np.ndarray, columns: int | None = None, padding: int = 2, scale: int = 1
) -> np.ndarray:
    """Puts images side by side, row after row, on white: uint8 `[height, width, C]`.

    Args:
        images: uint8 array `[N, H, W, C]` with 1, 3 or 4 channels, N at least 1.
        columns: Int, images per row; `None` makes the grid about square.
        padding: Int, white pixels around each image.
        scale: Int, how often each pixel is repeated in both directions, so that small
            images can be looked at.

    Example:

    >>> kgen.images.grid(model.generate(64), columns=8).shape
    (242, 242, 1)
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) == 0:
        raise ValueError(
            "A grid needs at least one image, as a uint8 array [N, H, W, C]. Received: "
            f"shape {images.shape}, dtype {images.dtype}"
        )
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    n, height, width, channels = images.shape
    columns = columns or columns_of(n)
    rows = math.ceil(n / columns)
    height, width = height + padding, width + padding
    canvas = np.full((rows * height + padding, columns * width + padding, channels), 255, "uint8")
    for i, image in enumerate(images):
        top, left = padding + i // columns * height, padding + i % columns * width
        canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas


def columns_of(n: int) -> int:
    """How many of `n` images in a row make a grid about square."""
    return math.ceil(math.sqrt(n))


def over_white(images: np.ndarray) -> np.ndarray:
    """uint8 images `[..., C]` without their alpha channel: what is transparent lies over white."""
    images = np.asarray(images)
    if images.shape[-1] not in (2, 4):
        return images
    colours, alpha = images[..., :-1].astype("float32"), images[..., -1:].astype("float32") / 255
    return np.floor(255 + (colours - 255) * alpha + 0.5).astype("uint8")


def viewing_scale(image_shape: Sequence[int], pixels: int = 32) -> int:
    """How often to repeat each pixel so that an image is about `pixels` high: 4 for 8x8."""
    return max(1, pixels // max(image_shape[:2]))


def encode_png(array: np.ndarray, claim: Any = None) -> bytes:
    """An image, uint8 `[H, W]` or `[H, W, C]` with 1 to 4 channels, as a PNG file's bytes.

    What a model has drawn says so by its `claim`, a `kgen.origin.Claim`.
    """
    from PIL import Image

    array = np.asarray(array)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype != np.uint8 or not (
        array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (2, 3, 4))
    ):
        raise ValueError(
            "A PNG is made from a uint8 array [H, W, C] with 1 to 4 channels. Received: "
            f"shape {array.shape}, dtype {array.dtype}"
        )
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    png = buffer.getvalue()
    return png if claim is None else claim.mark(png)


def save_png(array: np.ndarray, path: str | os.PathLike[str], claim: Any = None) -> None:
    """Writes one image, as for `encode_png`, as a PNG file, as a whole or not at all.

    The file's folder is made when it is missing.
    """
    png = encode_png(array, claim)
    with replacing(path) as temporary:
        temporary.write_bytes(png)


def load_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a mask, bool `[H, W]`, from a picture's file: `True` where it is brighter than half."""
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("L")) > 127


def save_folder(
    images: np.ndarray,
    folder: str | os.PathLike[str],
    names: Sequence[str] | None = None,
    claim: Any = None,
) -> None:
    """Writes images as a new folder of PNG files, which appears when it is complete.

    Args:
        images: uint8 array `[N, H, W, C]`.
        folder: Path of a folder that is missing or empty; else a `FileExistsError`.
        names: List of `N` file names without suffix; `None` numbers them.
        claim: The `kgen.origin.Claim` of all images; each file gets its own part. `None` where no
            model has drawn them.
    """
    folder = pathlib.Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder; choose another")
    names = names or [f"{i:0{len(str(len(images) - 1))}}" for i in range(len(images))]
    with new_folder(folder) as temporary:
        for i, (image, name) in enumerate(zip(images, names, strict=True)):
            own = None if claim is None else claim.row(i)
            (temporary / f"{name}.png").write_bytes(encode_png(image, own))
