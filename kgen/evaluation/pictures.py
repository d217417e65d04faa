"""Pictures of a model for a person to look at: images in a grid on white.

All take uint8 `[N, H, W, C]` and give uint8 `[h, w, C]`. Small images are enlarged, see
`kgen.images.viewing_scale`; of large ones fewer are shown in a row and in all, so that a
picture stays about 2,000 pixels wide and high.
"""

import numpy as np

from kgen.images import grid, viewing_scale

#: More rows than this, one for each class, are no longer looked at.
MAX_CLASSES = 20

_PADDING = 2
_GAP = 10  # white pixels between what belongs apart


def samples(images, columns=16):
    """The first images, at most 8 rows, in the order in which they were drawn: not chosen."""
    columns = min(_room(images, columns, axis=2, pixels=2000), len(images))
    rows = _room(images, 8, axis=1, pixels=1000)
    return _grid(images[: rows * columns], columns)


def per_class(images, labels, num_classes, columns=10):
    """A row of the first images for each class that occurs, in the order of the classes.

    Of more than 20 classes the first are shown; where one has fewer images than `columns`, the
    rest is white. `ValueError` unless `labels` is `[N]`, 0 to `num_classes - 1`.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"There must be one label for each of {len(images)} images. Received: labels of "
            f"shape {labels.shape}"
        )
    occurring = np.unique(labels)
    if occurring[0] < 0 or occurring[-1] >= num_classes:
        raise ValueError(
            f"Labels must be 0 to {num_classes - 1}. Received: {occurring[0]} to {occurring[-1]}"
        )
    rows = _room(images, MAX_CLASSES, axis=1, pixels=2000)
    chosen = [images[labels == label][:columns] for label in occurring[:rows]]
    return _grid(np.concatenate([_filled(row, columns) for row in chosen]), columns)


def neighbours(images, train_images, indices):
    """Generated images, a gap, and right of each the training images nearest to it, whose rows
    are in `indices` (`[N, k]`, the nearest first).
    """
    n, k = indices.shape
    left = _grid(images, 1)
    right = _grid(np.asarray(train_images)[indices.reshape(n * k)], k)
    return np.concatenate([left, _white(left, (len(left), _GAP)), right], axis=1)


def reconstructions(images, reconstructed, columns=16):
    """Images, and below each what the model made of it (of the same shape), in pairs of rows."""
    if images.shape != reconstructed.shape:
        raise ValueError(
            f"Reconstructions must have the shape of the images, {images.shape}. Received: "
            f"{reconstructed.shape}"
        )
    columns = min(_room(images, columns, axis=2, pixels=2000), len(images))
    pairs = []
    for start in range(0, len(images), columns):
        rows = slice(start, start + columns)
        pair = [_filled(row[rows], columns) for row in (images, reconstructed)]
        pairs += [_grid(np.concatenate(pair), columns)]
        pairs += [_white(pairs[0], (_GAP, pairs[0].shape[1]))]
    return np.concatenate(pairs[:-1])


def beside(parts):
    """Arrays `[N, H, W, C]` side by side, a row for each of the N, a gap between the parts; grey
    ones among colours are made colours.
    """
    channels = max(part.shape[-1] for part in parts)
    parts = [np.broadcast_to(p, (*p.shape[:-1], channels)) for p in parts]
    columns = [_grid(part, 1) for part in parts]
    gap = _white(columns[0], (len(columns[0]), _GAP // 2))
    joined = [each for column in columns for each in (gap, column)]
    return np.concatenate(joined[1:], axis=1)


def ways(images):
    """Interpolations `[pairs, steps, H, W, C]`, see `kgen.evaluation.interpolate`, a row each."""
    return _grid(images.reshape(-1, *images.shape[2:]), images.shape[1])


def _grid(images, columns):
    return grid(images, columns, _PADDING, viewing_scale(images.shape[1:]))


def _room(images, count, axis, pixels):
    """How many images, at most `count` and at least 4, fit into so many pixels."""
    size = images.shape[axis] * viewing_scale(images.shape[1:]) + _PADDING
    return min(count, max(4, pixels // size))


def _filled(images, count):
    """`images` and white ones after them, `count` in all."""
    return np.concatenate([images, _white(images, (count - len(images), *images.shape[1:3]))])


def _white(like, shape):
    return np.full((*shape, like.shape[-1]), 255, "uint8")
