"""`load`: from a source to a `Data` with its splits."""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kgen.checks import check_image_shape, check_seed
from kgen.data import cache, decoding, sources
from kgen.data.splits import Split, carve, check_fractions

SPLITS = ("train", "validation", "test")

_DEFAULTS = {"resize": "crop", "interpolation": "lanczos", "max_pixels": decoding.MAX_PIXELS}


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """Images in splits, as `kgen.data.load` returns them.

    Args:
        name: String, short name of the data.
        source: String, the source as it was given.
        train: `Split` to train on; `None` where all is held out, see `Run.load_data`.
        validation: `Split`, or `None` if the source has none and `validation_fraction` was 0.
        test: `Split`, or `None` if the source has none and `test_fraction` was 0.
        class_names: List of strings, or `None` where the source does not name classes.
        num_classes: Integer, or `None` where there are no labels.
        image_shape: Tuple `(H, W, C)`.
        fingerprint: String, sha256 in hexadecimal of the pixels, labels and class names of
            all splits. It is the same on every computer, and another as soon as one pixel
            is, or one image lies in another split.
        skipped: List of tuples `(path, reason)`, the files that could not be read.
        horizontal_flip: Boolean, whether shuffled batches of `train` are mirrored at random.

    Of what `load_pairs` gives, `image_shape` is that of the images, `input_shape` that of the
    inputs, and the splits have both.
    """

    name: str
    source: str
    train: Split
    validation: Split | None
    test: Split | None
    class_names: list | None
    num_classes: int | None
    image_shape: tuple
    fingerprint: str
    skipped: list
    horizontal_flip: bool

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Tuple `(h, w, c)`, or `None` without inputs."""
        return next(
            (s.input_shape for s in (self.train, self.validation, self.test) if s is not None), None
        )

    def split(self, name: str) -> Split:
        """The split of a name: `"train"`, `"validation"` or `"test"`; else a `ValueError`."""
        if name not in SPLITS:
            from kgen.checks import unknown_name

            raise ValueError(unknown_name("split", name, SPLITS))
        if getattr(self, name) is None:
            there = ", ".join(split for split in SPLITS if getattr(self, split) is not None)
            raise ValueError(f"{self.name} has no {name} split. It has: {there}.")
        return getattr(self, name)

    def count(self) -> int:
        """Int, how many images there are in all splits."""
        splits = (getattr(self, name) for name in SPLITS)
        return sum(len(split) for split in splits if split is not None)


def load(
    source: Any = "digits",
    image_shape: Sequence[int] | None = None,
    *,
    background: str = "white",
    resize: str = "crop",
    interpolation: str = "lanczos",
    max_pixels: int = decoding.MAX_PIXELS,
    recursive: bool = False,
    seed: int = 0,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    horizontal_flip: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    strict: bool = False,
    progress: bool = True,
    check: Callable[..., object] | None = None,
) -> Data:
    """Loads images from any source as uint8, all of one shape, in splits.

    Sources:

    - `"digits"`: 1,797 handwritten digits of 8x8 pixels that scikit-learn brings along.
    - Path of a `.npz` file with `x_train` and, where there are, `y_train`, `x_val`, `y_val`,
      `x_test`, `y_test`: uint8 `[N, H, W]` or `[N, H, W, C]`, integers `[N]` or `[N, 1]`.
    - Path of a folder of PNG, JPEG, WebP, GIF (first frame) and BMP files: flat, or with
      one subfolder per class, whose names in alphabetical order are the classes. Either
      may also lie in `train/` with, where there are, `validation/` (or `val/`) and
      `test/` beside it, in capitals or not, and all of it in a folder that is alone. Hidden
      files, folders that begin with `_`, files that are no images and links that lead in a
      circle are left out.
    - `"tfds:<name>"`: a dataset of tensorflow-datasets, from `data_dir`.
    - `"keras:<name>"`: `mnist`, `fashion_mnist`, `cifar10` or `cifar100`, downloaded by Keras.
    - A `tf.data.Dataset` of images or `(image, label)`, batched or not, uint8. It is read
      once, in its own order, into memory.
    - An array of images or a tuple `(images, labels)`, of shapes and dtypes as in a `.npz`.

    Images of another shape are turned upright (EXIF), cut to the largest centred part with
    the aspect ratio of `image_shape`, and resized with Lanczos's antialiasing filter, unless
    `resize` and `interpolation` say otherwise; see `kgen.data.decoding.decode`. Images from
    files are cached on disk as uint8, so that a second `load` starts at once, with the images
    memory-mapped. A changed file is noticed and never served from the cache.

    A split that the source has is kept. A missing validation or test split is drawn from
    the training images uniformly at random, the classes left to chance, and depends on
    nothing but their number and order, `seed` and the fractions.

    Args:
        source: See above.
        image_shape: Tuple `(H, W, C)` with 1, 3 or 4 channels; 4 keeps the alpha channel.
            By default that of the images if all have one size: with 1 channel if all are
            grey, else 3; never 4, except for arrays that have 4.
        background: Colour on which transparent images are composited where `image_shape`
            has 1 or 3 channels: a name that Pillow knows, or `"#rrggbb"`.
        resize: How an image gets another aspect ratio: `"crop"`, `"pad"` (with `background`, or
            transparent where `image_shape` has 4 channels) or `"stretch"`.
        interpolation: `"lanczos"`, or `"nearest"` for pixel art.
        max_pixels: Int, pixels of the largest picture that is decoded; a larger one counts as
            one that cannot be read. Decoding takes up to 4 bytes per pixel and thread.
        recursive: Boolean, whether a folder's subfolders are no classes, but places of images
            without labels.
        seed: Integer, 0 or more, that draws the missing splits.
        validation_fraction: Float, share of the training images for a missing validation
            split; 0 for none.
        test_fraction: Float, the same for a missing test split.
        horizontal_flip: Boolean, whether shuffled batches of the training split mirror each
            image with probability one half.
        cache_dir: Path of the cache; by default `KGEN_CACHE_DIR`, or `kgen` in the user's
            cache folder.
        data_dir: Path where tensorflow-datasets finds its data.
        strict: Boolean, whether a file that cannot be read is an error. By default it is
            left out and named in `skipped` and in a warning.
        progress: Boolean, whether to show a progress bar while decoding.
        check: Callable of the shape of the images and the number of classes (`None` where there
            are no labels) that may refuse them by an error. It is called before images are decoded,
            not where they are in the cache, or have labels without names of classes.

    Returns:
        A `Data`.

    Raises:
        ValueError: If the source, or an argument, is not what it should be.
        FileNotFoundError: If a path does not exist.
        OSError: If the cache cannot be written or a download fails.

    Example:

    >>> data = kgen.data.load("photos", image_shape=(64, 64, 3))
    >>> data.train.images.shape
    (8000, 64, 64, 3)
    """
    image_shape = None if image_shape is None else check_image_shape(image_shape)
    decoding.check_options(background, resize, interpolation, max_pixels)
    return load_found(
        sources.find(source, data_dir, recursive),
        image_shape,
        background=background,
        resize=resize,
        interpolation=interpolation,
        max_pixels=max_pixels,
        seed=seed,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        horizontal_flip=horizontal_flip,
        cache_dir=cache_dir,
        strict=strict,
        progress=progress,
        check=check,
    )


def load_found(
    found,
    image_shape,
    *,
    background="white",
    resize="crop",
    interpolation="lanczos",
    max_pixels=decoding.MAX_PIXELS,
    seed=0,
    validation_fraction=0.1,
    test_fraction=0.1,
    horizontal_flip=False,
    cache_dir=None,
    strict=False,
    progress=True,
    check=None,
    groups=None,
    kind=Split,
):
    """What `load` does with a `kgen.data.sources.Source`.

    `kind` is the class of the splits. `groups` are lists of what goes together when missing splits
    are drawn, a value for each image, by the split that they are drawn from.
    """
    check_fractions(validation_fraction, test_fraction)
    seed = check_seed(seed)
    fractions = {"validation": validation_fraction, "test": test_fraction}
    fractions = {name: value for name, value in fractions.items() if name not in found.splits}

    options = {"resize": resize, "interpolation": interpolation, "max_pixels": max_pixels}
    changed = {name: value for name, value in options.items() if value != _DEFAULTS[name]}

    def fill(sink):
        decoded = {"background": background, **options}
        return _fill(sink, found, image_shape, decoded, fractions, seed, progress, check, groups)

    if found.key is None:
        arrays, info = fill(_Memory())
    else:

        def digest(key):
            key = [cache.FORMAT, key, image_shape, background, fractions, fractions and seed]
            key += [changed] if changed else []  # without them, as before there were such options
            key += [groups] if groups else []
            return cache.digest(key)

        def fill_entry(writer):
            """Decodes the source, unless an entry was made of files of the same content."""
            if found.alike is None:
                return fill(writer)[1]
            alike, content = digest(found.alike), None
            for other, info in cache.alike(entry, alike):
                content = content or _content(found)
                if info["content"] == content and writer.link(other):
                    return info
            return {**fill(writer)[1], "alike": alike}

        name = re.sub(r"[^A-Za-z0-9_-]+", "-", found.name)
        folder = pathlib.Path(cache_dir or cache.default_folder()).expanduser() / "data"
        entry = folder / f"{name}-{digest(found.key)[:24]}"
        arrays, info = cache.load(entry, fill_entry)

    skipped = [tuple(item) for item in info["skipped"]]
    _report(skipped, found, strict)
    splits = {
        name: kind(images, labels, horizontal_flip=horizontal_flip and name == "train")
        for name, (images, labels) in arrays.items()
    }
    class_names = info["class_names"]
    num_classes = class_names and len(class_names)
    if class_names is None and splits["train"].labels is not None:
        num_classes = 1 + max(int(split.labels.max()) for split in splits.values())
    return Data(
        name=found.name,
        source=found.description,
        train=splits["train"],
        validation=splits.get("validation"),
        test=splits.get("test"),
        class_names=class_names,
        num_classes=num_classes,
        image_shape=splits["train"].image_shape,
        fingerprint=info["fingerprint"],
        skipped=skipped,
        horizontal_flip=horizontal_flip,
    )


class _Memory:
    """Collects images as `cache.Writer` does, for sources that are not cached."""

    def __init__(self):
        self._images, self._labels = {}, {}

    def add(self, split, image, label):
        self._images.setdefault(split, []).append(image)
        self._labels.setdefault(split, []).append(label)

    def arrays(self):
        return {
            split: (np.stack(images), cache.label_array(self._labels[split]))
            for split, images in self._images.items()
        }


def _fill(sink, found, image_shape, options, fractions, seed, progress, check, groups):
    """Decodes a source into `sink`: its splits as `(images, labels)`, and what else is known."""
    contents = found.read()
    description, parts = found.description, contents.parts
    if image_shape is None:
        image_shape = contents.image_shape or _common_shape(
            parts, description, options["max_pixels"], progress
        )
    class_names = contents.class_names
    if check is not None and (class_names or next(iter(parts["train"].items))[2] is None):
        check(image_shape, class_names and len(class_names))
    skipped = list(contents.skipped)
    content = hashlib.sha256()
    read_image = functools.partial(decoding.decode, image_shape=image_shape, **options)

    def decode(item):
        name, payload, label = item
        file, reason = _file(payload)
        image = (None, reason) if file is None else decoding.attempt(read_image, file)
        return name, label, image, _hash(file)

    with _progress(f"Decoding {description}", parts, progress) as advance:
        for part_name, part in parts.items():
            missing = fractions if part_name == "train" else {}
            assignment = carve(part_name, part.size, missing, seed, (groups or {}).get(part_name))
            results = decoding.parallel_map(decode, part.items)
            read = set()
            for split, result in zip(assignment, results, strict=True):
                name, label, (image, reason), file_hash = result
                content.update(file_hash)
                advance()
                if image is None:
                    skipped.append((name, reason))
                else:
                    sink.add(split, image, label)
                    read.add(split)
            for split in sorted(set(assignment) - read):
                name, reason = skipped[-1]
                raise ValueError(
                    f"None of the {sum(assignment == split)} files for the {split} split of "
                    f"{description} could be read (the last: {name}: {reason}); repair or "
                    "remove them."
                )
    arrays = sink.arrays()
    return arrays, {
        "class_names": contents.class_names,
        "skipped": skipped,
        "fingerprint": _fingerprint(arrays, contents.class_names),
        "content": content.hexdigest(),
    }


def _content(found):
    """The hash of all files of a source, which `_fill` makes too."""
    content = hashlib.sha256()
    for part in found.read().parts.values():
        hashes = decoding.parallel_map(lambda item: _hash(_file(item[1])[0]), part.items)
        for file_hash in hashes:
            content.update(file_hash)
    return content.hexdigest()


def _file(payload):
    """`(content, None)` of a file, or `(None, reason)`; anything but a path is its own content."""
    if isinstance(payload, decoding.Half):
        content, reason = _file(payload.file)
        return content and decoding.Half(content, payload.right), reason
    if isinstance(payload, str):
        return decoding.attempt(_read_bytes, payload)
    return payload, None


def _read_bytes(path):
    with open(path, "rb", buffering=0) as file:
        return file.read()


def _hash(file):
    file = file.file if isinstance(file, decoding.Half) else file
    return hashlib.sha256(file).digest() if isinstance(file, bytes) else b""


def _common_shape(parts, description, max_pixels, progress):
    """The shape of all images of a source; `ValueError` if they have several sizes."""
    sizes, channels, refused = {}, set(), None
    items = itertools.chain.from_iterable(part.items for part in parts.values())

    def probe(item):
        return item[0], decoding.attempt(decoding.probe, item[1], max_pixels)

    with _progress(f"Measuring {description}", parts, progress) as advance:
        for name, (shape, reason) in decoding.parallel_map(probe, items):
            advance()
            if shape is None:  # decoding names the files that cannot be read
                refused = f"{name}: {reason}"
            else:
                sizes.setdefault(tuple(shape[:2]), name)
                channels.add(shape[2])
            if len(sizes) == 2:
                (first, first_name), (second, second_name) = sizes.items()
                raise ValueError(
                    f"The images of {description} differ in size: {first_name} has "
                    f"{first[0]}x{first[1]} (height x width), {second_name} has "
                    f"{second[0]}x{second[1]}; pass image_shape=(height, width, channels)."
                )
    if not sizes:
        raise ValueError(
            f"None of the files in {description} is an image that can be read (the last: "
            f"{refused})."
        )
    return (*sizes.popitem()[0], channels.pop() if len(channels) == 1 else 3)


@contextlib.contextmanager
def _progress(text, parts, show):
    """Context manager that gives a function to call after each image."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("[progress.description]{task.description}", BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    show = show and console.is_interactive  # not into a log file
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not show
    ) as bar:
        total = sum(part.size for part in parts.values())
        task = bar.add_task(escape(text), total=total)
        done = itertools.count(1)

        def advance():
            if (count := next(done)) % 64 == 0 or count == total:
                bar.update(task, completed=count)

        yield advance


def _report(skipped, found, strict):
    if found.other:
        count = "1 file" if len(found.other) == 1 else f"{len(found.other)} files"
        named = ", ".join(found.other[:3]) + (", ..." if len(found.other) > 3 else "")
        verb = "is no image" if len(found.other) == 1 else "are no images"
        text = f"{count} of {found.description} {verb} and left out: {named}."
        warnings.warn(text, stacklevel=3)
    if not skipped:
        return
    named = "; ".join(f"{path}: {reason}" for path, reason in skipped[:3])
    more = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    count = f"{len(skipped)} file{'s' if len(skipped) > 1 else ''}"
    message = f"{count} of {found.description} could not be read ({named}{more})"
    if strict:
        raise ValueError(f"{message}; remove or repair them, or pass strict=False to skip them.")
    warnings.warn(f"{message}: skipped.", stacklevel=3)


def _fingerprint(arrays, class_names):
    content = hashlib.sha256(json.dumps(class_names).encode())
    for name, (images, labels) in sorted(arrays.items()):
        content.update(f"{name} {images.shape} {labels is not None}".encode())
        content.update(images)
        if labels is not None:
            content.update(labels)
    return content.hexdigest()
