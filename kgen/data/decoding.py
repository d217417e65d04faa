"""From an image file, or an array, to uint8 `[H, W, C]` of the shape asked for."""

import collections
import concurrent.futures
import io
import itertools
import os
import time

import numpy as np
from PIL import Image, ImageColor, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")

# Lanczos widens with the scale, so it is antialiased; it keeps edges sharper than bicubic,
# and is what StyleGAN's and EDM's dataset tools resize with.
RESAMPLING = Image.Resampling.LANCZOS

_GROUP = 16  # images that a thread takes at a time


def decode(payload, image_shape, background="white"):
    """Decodes one image and brings it to `image_shape`: uint8 `[H, W, C]`, with 1, 3 or 4 channels.

    A photograph is turned upright as its EXIF orientation says; of an animation the
    first frame is taken. The largest centred part with the aspect ratio of the target is
    cut out and resized with Lanczos's filter; an image that has the target's size
    already keeps its pixels. 16-bit grey is scaled to 8 bits. With 1 or 3 channels a
    transparent image is composited on `background`, a colour that Pillow knows (a name or
    `#rrggbb`); with 4 it keeps its alpha channel, and an opaque image gets alpha 255.

    `payload` is the path (a string) or the bytes of a PNG, JPEG, WebP, GIF or BMP file, or a uint8
    array `[H, W, C]`.
    """
    if isinstance(payload, np.ndarray):
        if payload.shape == image_shape:
            return payload
        grey = payload.shape[-1] == 1
        return _fit(Image.fromarray(payload[..., 0] if grey else payload), image_shape, background)
    with _open(payload) as image:
        # JPEG decodes to a half, a quarter or an eighth at a fraction of the cost. Twice
        # the size that is needed is left for the filter.
        scale = 2 * max(image_shape[:2]) / min(image.size)
        image.draft(image.mode, (int(image.width * scale), int(image.height * scale)))
        ImageOps.exif_transpose(image, in_place=True)
        return _fit(image, image_shape, background)


def probe(payload):
    """Returns `(H, W, C)` of a file (path or bytes) or array, without decoding it.

    `C` is 1 for a grey image and 3 for every other: transparency is composited unless 4
    channels are asked for. A palette counts as colour.
    """
    if isinstance(payload, np.ndarray):
        return payload.shape
    with _open(payload) as image:
        width, height = image.size
        if image.getexif().get(0x0112, 1) >= 5:  # EXIF orientation: lies on its side
            width, height = height, width
        return height, width, 1 if image.mode[0] in "1LI" else 3


def check_background(background):
    """Raises `ValueError` unless Pillow knows the colour."""
    try:
        ImageColor.getrgb(background)
    except (AttributeError, ValueError):
        raise ValueError(
            f"background must be a colour name or '#rrggbb', received {background!r}."
        ) from None


def attempt(function, *args):
    """Returns `(result, None)`, or `(None, reason)` where the file cannot be read."""
    try:
        return function(*args), None
    except MemoryError:
        raise
    except Image.UnidentifiedImageError:
        return None, "not a PNG, JPEG, WebP, GIF or BMP file"
    except Exception as error:  # a broken file makes its decoder raise almost anything
        return None, " ".join(str(error).split()) or type(error).__name__


def parallel_map(function, items):
    """`map` on all cores, in order, with few items in flight.

    Pillow lets go of Python's lock while it decodes and resizes, so threads do. Of images
    so small that Python's share is the larger one (32x32 JPEG: 50 microseconds each)
    threads only stand in each other's way: the first few, the very first aside, decide.
    """
    items = iter(items)
    yield from map(function, itertools.islice(items, _GROUP))
    sample = list(itertools.islice(items, _GROUP))
    begin = time.perf_counter()
    results = [function(item) for item in sample]
    elapsed = time.perf_counter() - begin
    yield from results
    if elapsed < len(sample) * 100e-6:
        yield from map(function, items)
        return

    def run(group):
        return [function(item) for item in group]

    workers = os.cpu_count() or 1
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        pending = collections.deque()
        while group := list(itertools.islice(items, _GROUP)):
            pending.append(pool.submit(run, group))
            if len(pending) > 2 * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


def _open(payload):
    return Image.open(payload if isinstance(payload, str) else io.BytesIO(payload), formats=FORMATS)


def _fit(image, image_shape, background):
    height, width, channels = image_shape
    image = _convert(image, channels, background)
    if image.size != (width, height):
        crop_width = min(image.width, image.height * width / height)
        crop_height = min(image.height, image.width * height / width)
        left, top = (image.width - crop_width) / 2, (image.height - crop_height) / 2
        if (crop_width, crop_height) == (width, height):  # keep the pixels: nothing to resize
            left, top = int(left), int(top)
            image = image.crop((left, top, left + width, top + height))
        else:
            box = (left, top, left + crop_width, top + crop_height)
            image = image.resize((width, height), RESAMPLING, box=box)
    return np.asarray(image).reshape(image_shape)


def _convert(image, channels, background):
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion clips at 255
        values = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if channels != 4 and image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, ImageColor.getrgb(background)[:3])
        image = Image.alpha_composite(canvas, image)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    return image if image.mode == mode else image.convert(mode)
