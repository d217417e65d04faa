"""From an image file, or an array, to uint8 `[H, W, C]` of the shape asked for."""

import collections
import concurrent.futures
import dataclasses
import functools
import io
import itertools
import os
import struct
import threading
import time

import numpy as np
from PIL import Image, ImageColor, ImageOps

from kgen.checks import check_ints, check_names

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")

#: How an image of another aspect ratio is brought to that of the target.
RESIZES = ("crop", "pad", "stretch")

# Lanczos widens with the scale, so it is antialiased; it keeps edges sharper than bicubic,
# and is what StyleGAN's and EDM's dataset tools resize with.
INTERPOLATIONS = {"lanczos": Image.Resampling.LANCZOS, "nearest": Image.Resampling.NEAREST}

#: Pixels of the largest picture that is decoded; Pillow's own limit.
MAX_PIXELS = 178_956_970


@dataclasses.dataclass(frozen=True)
class Half:
    """The left or the right half of a picture, in place of its file: a path, or bytes."""

    file: str | bytes
    right: bool


_GROUP = 16  # images that a thread takes at a time
_BAND = 2**22  # pixels that are converted at a time
_ON_ITS_SIDE = (5, 6, 7, 8)  # EXIF orientations that swap the sides
_opening = threading.Lock()


def decode(
    payload,
    image_shape,
    background="white",
    resize="crop",
    interpolation="lanczos",
    max_pixels=MAX_PIXELS,
):
    """Decodes one image and brings it to `image_shape`: uint8 `[H, W, C]`, with 1 to 4 channels.

    A photograph is turned upright as its EXIF orientation says; of an animation the
    first frame is taken. With the `resize` of `"crop"` the largest centred part with the aspect
    ratio of the target is cut out and resized, with `"pad"` the whole is resized and centred on
    `background` (on transparency with 4 channels), with `"stretch"` its aspect ratio changes.
    `interpolation` is `"lanczos"`, or `"nearest"` for pixel art; an image that has the target's
    size already keeps its pixels. 16-bit grey is scaled to 8 bits. With 1 or 3 channels a
    transparent image is composited on `background`, a colour that Pillow knows (a name or
    `#rrggbb`); with 2 or 4 it keeps its alpha channel, and an opaque image gets alpha 255.

    `payload` is the path (a string) or the bytes of a PNG, JPEG, WebP, GIF or BMP file, a `Half` of
    one, or a uint8 array `[H, W, C]`. A `ValueError` where a file has more than `max_pixels`.
    """
    fit = functools.partial(
        _fit,
        image_shape=image_shape,
        background=background,
        resize=resize,
        resampling=INTERPOLATIONS[interpolation],
    )
    if isinstance(payload, np.ndarray):
        if payload.shape == image_shape:
            return payload
        grey = payload.shape[-1] == 1
        return fit(Image.fromarray(payload[..., 0] if grey else payload))
    half = payload if isinstance(payload, Half) else None
    with _open(half.file if half else payload, max_pixels) as image:
        if half is not None:
            ImageOps.exif_transpose(image, in_place=True)
            middle = image.width // 2
            left = image.width - middle if half.right else 0
            return fit(image.crop((left, 0, left + middle, image.height)))
        if interpolation == "lanczos":
            # JPEG decodes to a half, a quarter or an eighth at a fraction of the cost. Twice
            # the size that is needed is left for the filter.
            scale = 2 * max(image_shape[:2]) / min(image.size)
            image.draft(image.mode, (int(image.width * scale), int(image.height * scale)))
        ImageOps.exif_transpose(image, in_place=True)
        return fit(image)


def probe(payload, max_pixels=MAX_PIXELS):
    """Returns `(H, W, C)` of a file (path or bytes) or array, without decoding it.

    `C` is 1 for a grey image and 3 for every other: transparency is composited unless 4
    channels are asked for. A palette counts as colour. A `ValueError` where a file has more than
    `max_pixels`.
    """
    if isinstance(payload, np.ndarray):
        return payload.shape
    if isinstance(payload, Half):
        height, width, channels = probe(payload.file, max_pixels)
        return height, width // 2, channels
    with _open(payload, max_pixels) as image:
        width, height = image.size
        # That of a PNG file decodes it, to see what comes behind the pixels.
        late = image.format == "PNG" and _has_late_text(payload)
        exif = image.getexif() if late else Image.Image.getexif(image)
        if exif.get(0x0112) in _ON_ITS_SIDE:
            width, height = height, width
        return height, width, 1 if image.mode[0] in "1LI" else 3


def _has_late_text(payload):
    """Whether a PNG file has chunks behind its pixels that may hold an orientation."""
    with open(payload, "rb") if isinstance(payload, str) else io.BytesIO(payload) as file:
        file.seek(8)
        pixels = False
        while len(header := file.read(8)) == 8:
            size, kind = struct.unpack(">I4s", header)
            pixels = pixels or kind == b"IDAT"
            if pixels and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
                return True
            file.seek(size + 4, io.SEEK_CUR)
    return False


def check_options(background, resize, interpolation, max_pixels):
    """Raises `ValueError` unless `decode` takes the options."""
    check_names(resize=(resize, RESIZES), interpolation=(interpolation, INTERPOLATIONS))
    check_ints(1, max_pixels=max_pixels)
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


def _open(payload, max_pixels):
    """Opens a file of no more than `max_pixels`; its pixels are not read yet."""

    def read_header():
        file = payload if isinstance(payload, str) else io.BytesIO(payload)
        return Image.open(file, formats=FORMATS)

    try:
        image = read_header()
    except Image.DecompressionBombError:  # Pillow's limit is one for the process
        with _opening:
            before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                image = read_header()
            finally:
                Image.MAX_IMAGE_PIXELS = before
    if image.width * image.height > max_pixels:
        image.close()
        raise ValueError(
            f"its {image.width}x{image.height} pixels are more than max_pixels={max_pixels} "
            "(--max-pixels)"
        )
    return image


def _fit(image, image_shape, background, resize, resampling):
    height, width, channels = image_shape
    convert = functools.partial(_convert, channels=channels, background=background)
    whole = (0, 0, image.width, image.height)
    if image.size == (width, height):
        image = convert(image)
    elif resize == "stretch":
        image = _resized(image, whole, (width, height), resampling, convert)
    elif resize == "pad":
        scale = min(width / image.width, height / image.height)
        inside = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        image = _resized(image, whole, inside, resampling, convert)
        clear = {2: (0, 0), 4: (0, 0, 0, 0)}
        colour = clear.get(channels) or ImageColor.getcolor(background, image.mode)
        canvas = Image.new(image.mode, (width, height), colour)
        canvas.paste(image, ((width - inside[0]) // 2, (height - inside[1]) // 2))
        image = canvas
    else:
        crop_width = min(image.width, image.height * width / height)
        crop_height = min(image.height, image.width * height / width)
        left, top = (image.width - crop_width) / 2, (image.height - crop_height) / 2
        if (crop_width, crop_height) == (width, height):  # keep the pixels: nothing to resize
            left, top = int(left), int(top)
            image = convert(image.crop((left, top, left + width, top + height)))
        else:
            box = (left, top, left + crop_width, top + crop_height)
            image = _resized(image, box, (width, height), resampling, convert)
    return np.asarray(image).reshape(image_shape)


def _resized(image, box, size, resampling, convert):
    """The part `box` of an image, converted and resized.

    A large one is converted in bands, so that a picture of one bit a pixel never takes the memory
    of one of 32. Pillow resizes rows first and columns second, so both ways give the same pixels.
    """
    if image.width * image.height <= _BAND:
        return convert(image).resize(size, resampling, box=box)
    left, top, right, bottom = box
    canvas, rows = None, max(1, _BAND // image.width)
    for y in range(0, image.height, rows):
        band = convert(image.crop((0, y, image.width, min(y + rows, image.height))))
        if band.mode == "RGBA" and resampling != Image.Resampling.NEAREST:
            band = band.convert("RGBa")  # premultiplied, as Pillow resizes it
        band = band.resize((size[0], band.height), resampling, box=(left, 0, right, band.height))
        canvas = canvas or Image.new(band.mode, (size[0], image.height))
        canvas.paste(band, (0, y))
    canvas = canvas.resize(size, resampling, box=(0, top, size[0], bottom))
    return canvas.convert("RGBA") if canvas.mode == "RGBa" else canvas


def _convert(image, channels, background):
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion clips at 255
        values = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if channels not in (2, 4) and image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, ImageColor.getrgb(background)[:3])
        image = Image.alpha_composite(canvas, image)
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    return image if image.mode == mode else image.convert(mode)
