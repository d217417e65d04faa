"""Ways to spoil images, each with a level: what scores are tried on, and extractors trained on.

Every function takes uint8 images `[N, H, W, C]`, a level and a NumPy generator, and gives new
ones. Colours under full transparency are nobody's to see, so images with alpha are handled with
colours multiplied by it.
"""

import numpy as np
from scipy import ndimage


def blur(images, sigma, rng=None):
    """A Gaussian blur with a standard deviation in pixels."""
    return _to_uint8(_smoothed(_premultiplied(images), sigma))


def noise(images, deviation, rng):
    """Gaussian noise with a standard deviation in grey levels, alpha left as it is."""
    noisy = images.astype("float32")
    colours = noisy[..., :3]  # a view
    colours += rng.normal(0, deviation, colours.shape).astype("float32")
    return _rounded(noisy)


def shift(images, pixels, rng=None):
    """Moved to the right; what leaves on the right comes in on the left."""
    return np.roll(images, int(pixels), axis=2)


def palette(images, degrees, rng=None):
    """Hues turned around the axis of greys; grey images have none and stay as they are."""
    if images.shape[-1] == 1:
        return images
    changed = images.astype("float32")
    angle = np.deg2rad(degrees)
    grey = np.full((3, 3), 1 / 3)
    across = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    turn = np.cos(angle) * np.eye(3) + (1 - np.cos(angle)) * grey + np.sin(angle) * across
    changed[..., :3] = changed[..., :3] @ turn.T.astype("float32")
    return _rounded(changed)


def mixture(images, others, rng):
    """Averages of each image with so many others: outlines go, as in a blurred model's samples."""
    mixed = _premultiplied(images)
    orders = [np.arange(len(images)), *(rng.permutation(len(images)) for _ in range(int(others)))]
    return _to_uint8(np.mean([mixed[order] for order in orders], axis=0))


def blobs(images, sigma, rng):
    """Averages of three images, blurred: grey silhouettes."""
    return blur(mixture(images, 2, rng), sigma)


def shuffle(images, parts, rng):
    """Cut into `parts` times `parts` tiles, which change places, each image's alike."""
    parts = int(parts)
    rows, columns = (np.array_split(np.arange(side), parts) for side in images.shape[1:3])
    height, width = (min(map(len, pieces)) for pieces in (rows, columns))
    result = images.copy()
    places = [(r[0], c[0]) for r in rows for c in columns]
    for (to_y, to_x), source in zip(places, rng.permutation(len(places)), strict=True):
        y, x = places[source]
        tile = images[:, y : y + height, x : x + width]
        result[:, to_y : to_y + height, to_x : to_x + width] = tile
    return result


def threshold(images, level, rng=None):
    """Black and white, cut at a grey level."""
    return np.where(images < level, 0, 255).astype("uint8")


def drawn(images, times, rng):
    """Black and white, drawn with the grey levels as probabilities."""
    return np.where(rng.uniform(0, 255, images.shape) < images, 255, 0).astype("uint8")


def _smoothed(images, sigma):
    return ndimage.gaussian_filter(images, (0, sigma, sigma, 0), mode="nearest")


def _premultiplied(images):
    """float32, colours multiplied by their alpha."""
    images = images.astype("float32")
    if images.shape[-1] == 4:
        images[..., :3] *= images[..., 3:] / 255
    return images


def _to_uint8(images):
    """Of `_premultiplied` images."""
    if images.shape[-1] == 4:
        images[..., :3] *= 255 / np.maximum(images[..., 3:], 1)
    return _rounded(images)


def _rounded(images):
    return np.clip(np.rint(images), 0, 255).astype("uint8")
