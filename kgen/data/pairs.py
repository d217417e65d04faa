"""`load_pairs`: images with what they are to be made of, in splits."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Sequence
from typing import Any

from kgen.checks import INPUT_CHANNELS, check_image_shape
from kgen.data import decoding, sources
from kgen.data.loading import Data, load_found
from kgen.data.splits import Inputs, Split

_SPLITS = ("train", "validation", "test")


def load_pairs(
    inputs: Any,
    images: Any = None,
    image_shape: Sequence[int] | None = None,
    *,
    input_shape: Sequence[int] | None = None,
    paired: bool = True,
    swap: bool = False,
    group_by: str | None = None,
    **options: Any,
) -> Data:
    """Loads images and what each is to be made of.

    - Two folders in which partners have equal names, whatever their endings: the inputs, and the
      images to make of them. They may lie in `train/`, `validation/` and `test/`, in both alike.
    - One folder of pictures side by side, input to the left, image to the right: `images=None`.
    - Two folders of any pictures, `paired=False`: what shall become alike, and what it shall be
      like.
    - Two arrays `[N, h, w, c]` and `[N, H, W, C]`.

    Images are decoded, resized and cached as by `kgen.data.load`. A pair of which one cannot be
    read is left out, and named.

    Args:
        inputs: Source of the inputs, see above, or of both.
        images: Source of the images.
        image_shape: Tuple `(H, W, C)` of the images; by default their own.
        input_shape: Tuple `(h, w, c)` of the inputs; by default `image_shape`, or their own.
        paired: Boolean, whether partners are told by their names.
        swap: Boolean, whether what is to the right is the input.
        group_by: String, a regular expression, or a callable of a name without its ending. What
            the expression matches is taken out of the names, or the callable gives a string; names
            that are alike then go into one split, as do the frames of a film by `r"_\\d+$"`. It is
            for splits that are drawn.
        **options: Further arguments of `kgen.data.load`.

    Returns:
        `kgen.data.Data` whose splits have `inputs` beside `images`.

    Raises:
        ValueError: An image has no partner, or one of another aspect ratio; a source is empty; an
            argument is not what it should be.
        FileNotFoundError: A path does not exist.

    Example:

    >>> data = kgen.data.load_pairs("drawings", "photos", image_shape=(64, 64, 3))
    >>> data.train.inputs.shape, data.train.images.shape
    ((900, 64, 64, 3), (900, 64, 64, 3))
    """
    data_dir, recursive = options.pop("data_dir", None), options.pop("recursive", True)
    decoding.check_options(
        options.get("background", "white"),
        options.get("resize", "crop"),
        options.get("interpolation", "lanczos"),
        options.get("max_pixels", decoding.MAX_PIXELS),
    )
    if image_shape is not None:
        image_shape = check_image_shape(image_shape)
        input_shape = image_shape if input_shape is None else input_shape
    if input_shape is not None:
        input_shape = check_image_shape(input_shape, "input_shape", INPUT_CHANNELS)
    if swap and images is not None:
        raise ValueError("swap is for pictures side by side: change inputs and images instead.")
    found = [sources.find(inputs, data_dir, recursive)]
    found.append(found[0] if images is None else sources.find(images, data_dir, recursive))
    if images is None and not paired:
        raise ValueError("Without pairs there must be two sources: inputs and images.")
    if group_by is not None and not paired:
        raise ValueError("group_by is for pairs. Received: paired=False")
    shapes = (input_shape, image_shape)
    if not paired:
        sides = [
            load_found(source, shape, kind=kind, **options)
            for source, shape, kind in zip(found, shapes, (Inputs, Split), strict=True)
        ]
        return _joined(sides, found, False)
    halves = (swap, not swap) if images is None else (None, None)
    return _load_partners(found, shapes, halves, group_by, options)


def _load_partners(found, shapes, halves, group_by, options):
    """Loads both sides of what are pairs, without those of which one cannot be read."""
    parts = _matched(found, halves)
    strict, left_out = options.pop("strict", False), {}
    while True:
        names = {split: [n for n in part if n not in left_out] for split, part in parts.items()}
        if group_by is not None:
            options["groups"] = {s: [_group(group_by, n) for n in names[s]] for s in names}
        stretched = options.get("resize") == "stretch"
        sides = [
            load_found(
                _source(found, parts, names, side, halves[side], stretched),
                shapes[side],
                kind=kind,
                **options,
            )
            for side, kind in enumerate((Inputs, Split))
        ]
        skipped = {name: reason for side in sides for name, reason in side.skipped}
        if not skipped:
            joined = _joined(sides, found, True)
            return dataclasses.replace(joined, skipped=list(left_out.values()))
        if strict:
            name, reason = next(iter(skipped.items()))
            raise ValueError(
                f"{len(skipped)} pairs could not be read (the first: {name}: {reason}); repair or "
                "remove them, or pass strict=False to skip them."
            )
        left_out |= {name: (name, reason) for name, reason in skipped.items()}


def _matched(found, halves):
    """The items of both sides, by split and by their common name; see `load_pairs`."""
    contents = [source.read() for source in (found[:1] if halves[0] is not None else found)]
    contents *= 3 - len(contents)
    places = [source.description for source in found]
    if contents[0].parts.keys() != contents[1].parts.keys():
        raise ValueError(
            f"Both sides must have the same splits. Received: {', '.join(contents[0].parts)} in "
            f"{places[0]} and {', '.join(contents[1].parts)} in {places[1]}."
        )
    parts = {}
    for split in contents[0].parts:
        sides = [
            _by_stem(list(content.parts[split].items), place)
            for content, place in zip(contents, places, strict=True)
        ]
        for one, other in ((0, 1), (1, 0)):
            alone = sorted(sides[one].keys() - sides[other].keys())
            if alone:
                named = ", ".join(alone[:3]) + (", ..." if len(alone) > 3 else "")
                raise ValueError(
                    f"{len(alone)} of {len(sides[one])} images in {places[one]} have no partner of "
                    f"their name among the {len(sides[other])} in {places[other]}: {named}. Add or "
                    "remove them, or train without pairs (paired=False, --unpaired)."
                )
        parts[split] = {name: (sides[0][name], sides[1][name]) for name in sorted(sides[0])}
    return parts


def _by_stem(items, place):
    """Items by their names without ending, and without the folder that all of them are in."""
    folder = os.path.commonpath([os.path.dirname(name) for name, *_ in items] or [""])
    found = {}
    for item in items:
        name = _stem(os.path.relpath(item[0], folder) if folder else item[0])
        if name in found:
            raise ValueError(
                f"{place} has two images of one name, {found[name][0]} and {item[0]}: which is the "
                "partner? Keep one."
            )
        found[name] = item
    return found


def _stem(name):
    return os.path.splitext(name)[0]


def _group(group_by, name):
    return group_by(name) if callable(group_by) else re.sub(group_by, "", name)


def _source(found, parts, names, side, right, stretched):
    """One side of the pairs as a source of its own, whose items have the pairs' names."""

    def payload(item):
        return item if right is None else decoding.Half(item, right)

    def read():
        if not stretched and right is None and side == 0:
            _check_ratios(parts, names, [source.description for source in found])
        return sources.Contents(
            {
                split: sources.Part(
                    len(own), [(n, payload(parts[split][n][side][1]), None) for n in own]
                )
                for split, own in names.items()
            }
        )

    base = found[side]
    key = None
    if base.key is not None:
        key = ["pairs", [source.key for source in found], side, right, names]
    return sources.Source(base.name, base.description, tuple(names), read, key)


def _check_ratios(parts, names, places):
    """Raises a ValueError where partners have other aspect ratios, by more than a pixel."""
    for split, own in names.items():
        pairs = [parts[split][name] for name in own]
        shapes = [
            list(decoding.parallel_map(lambda item: decoding.attempt(_sides, item[1]), items))
            for items in zip(*pairs, strict=True)
        ]
        for name, (one, _), (other, _) in zip(own, *shapes, strict=True):
            if one is None or other is None:
                continue  # decoding names what cannot be read
            if abs(one[0] * other[1] - one[1] * other[0]) >= max(*one, *other):
                raise ValueError(
                    f"The pair {name} is of two aspect ratios: {one[0]}x{one[1]} (height x width) "
                    f"in {places[0]} and {other[0]}x{other[1]} in {places[1]}. Cut them alike, or "
                    "pass resize='stretch' (--resize stretch)."
                )


def _sides(payload):
    return decoding.probe(payload)[:2]


def _joined(sides, found, paired):
    """Both sides in one `Data`."""
    inputs, images = sides
    splits = {}
    for name in _SPLITS:
        one, other = getattr(inputs, name), getattr(images, name)
        if (one is None) != (other is None):
            raise ValueError(
                f"Both sides must have the same splits. Received: {name} in one of "
                f"{found[0].description} and {found[1].description}."
            )
        splits[name] = other and Split(
            other.images, None, other.horizontal_flip, inputs=one.images, paired=paired
        )
    digest = hashlib.sha256(f"{inputs.fingerprint} {images.fingerprint} {paired}".encode())
    side_by_side = found[0] is found[1]
    name = images.name if side_by_side else f"{inputs.name}-{images.name}"
    return Data(
        name=name,
        source=images.source,
        **splits,
        class_names=None,
        num_classes=None,
        image_shape=images.image_shape,
        fingerprint=digest.hexdigest(),
        skipped=[*inputs.skipped, *images.skipped] if not paired else [],
        horizontal_flip=images.horizontal_flip,
    )
