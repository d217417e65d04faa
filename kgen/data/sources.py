"""Where images come from: each kind of source as a `Source` of the same form."""

import contextlib
import dataclasses
import difflib
import hashlib
import os
import pathlib
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterable

import numpy as np

from kgen.data.decoding import SUFFIXES
from kgen.data.splits import check_images, check_labels

SOURCES = {
    "digits": "1,797 handwritten digits, 8x8 grey, 10 classes; comes with scikit-learn",
    "<file>.npz": "arrays x_train, y_train, x_test, y_test as Keras names them",
    "<folder>": "images, one subfolder per class or none, in train/ and test/ or not",
    "tfds:<name>": "a dataset of tensorflow-datasets, for instance tfds:mnist",
    "keras:<name>": "mnist, fashion_mnist, cifar10 or cifar100; Keras downloads it once",
}

_DIGITS = [str(digit) for digit in range(10)]
_KERAS_CLASS_NAMES = {
    "mnist": _DIGITS,
    "fashion_mnist": [
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ],
    "cifar10": [
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ],
    "cifar100": None,
}


@dataclasses.dataclass(frozen=True)
class Part:
    """The images of one split that the source itself has, `size` in number.

    `items` are tuples `(name, payload, label)`: a string, what `decoding.decode` takes, and an
    int or `None`. They can be iterated again.
    """

    size: int
    items: Iterable


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a source holds: a `Part` for each of its splits, of which `"train"` is one.

    `image_shape` is `None` where only the images know it, `class_names` where there are none;
    `skipped` has tuples `(path, reason)` of files that are no images.
    """

    parts: dict
    image_shape: tuple | None = None
    class_names: list | None = None
    skipped: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Source:
    """A source that was found, and not yet read; `read` gives its `Contents`.

    `description` is the source as the user gave it. `key` is a value for JSON that changes
    whenever the source does, or `None` for one that is in memory already and is not cached.
    `alike` is like `key`, but stays the same where files are touched and not changed, for a folder.
    `other` names what lies in a folder and is no image, broken or not.
    """

    name: str
    description: str
    splits: tuple
    read: Callable[[], Contents]
    key: object = None
    alike: object = None
    other: tuple = ()


def find(source, data_dir=None, recursive=False):
    """Returns the `Source` that the argument `source` of `kgen.data.load` means."""
    if isinstance(source, str):
        if not source:  # as a path it would be the current folder
            raise ValueError("source must be a name or a path. Received: ''")
        if source == "digits":
            return _digits()
        kind, _, name = source.partition(":")
        if kind == "keras":
            return _keras(name)
        if kind == "tfds":
            return _tfds(name, data_dir)
    if isinstance(source, (str, os.PathLike)):
        return _path(source, recursive)
    if _is_tf_dataset(source):
        return _tf_dataset(source)
    if isinstance(source, tuple) and len(source) == 2:
        return _arrays(*source)
    if hasattr(source, "__array__"):
        return _arrays(source, None)
    raise ValueError(
        f"source must be a name, a path, a tf.data.Dataset, an array of images or a tuple "
        f"(images, labels), received {type(source).__name__}."
    )


def _path(source, recursive):
    path = pathlib.Path(source).expanduser()
    if path.is_dir():
        return _folder(path, str(source), recursive)
    if path.is_file():
        if path.suffix.lower() == ".npz":
            return _npz(path, str(source))
        raise ValueError(f"{source} is a file; expected a .npz file or a folder of images.")
    if path.exists():
        raise ValueError(f"{source} is a device, a pipe or a socket; expected a file or a folder.")
    if path.suffix or len(path.parts) > 1 or not isinstance(source, str):
        raise FileNotFoundError(f"{source} does not exist; expected a .npz file or a folder.")
    names = {"digits": "digits", **{name: f"keras:{name}" for name in _KERAS_CLASS_NAMES}}
    known = ", ".join(SOURCES)
    raise ValueError(f"Unknown source {source!r}{_nearest(source, names)} Known: {known}.")


def _nearest(name, known):
    """`"; did you mean ...?"` for the nearest key of the dict `known`, or a full stop."""
    match = difflib.get_close_matches(name.lower(), known, n=1)
    return f"; did you mean {known[match[0]]!r}?" if match else "."


# In memory


def _digits():
    def read():
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # 0 to 16
        return _array_contents({"train": (images, digits.target)}, _DIGITS)

    return Source("digits", "digits", ("train",), read)


def _arrays(images, labels):
    images, labels = np.asarray(images), None if labels is None else np.asarray(labels)
    arrays = {"train": _checked("images", images, "labels", labels)}
    description = f"array {images.dtype} {list(images.shape)}"
    return Source("array", description, ("train",), lambda: _array_contents(arrays))


def _keras(name):
    if name not in _KERAS_CLASS_NAMES:
        names = {known: f"keras:{known}" for known in _KERAS_CLASS_NAMES}
        known = ", ".join(_KERAS_CLASS_NAMES)
        raise ValueError(f"Unknown source 'keras:{name}'{_nearest(name, names)} Known: {known}.")

    def read():
        import keras

        try:
            (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
        except Exception as error:  # Keras raises a bare Exception when a download fails
            raise OSError(
                f"Keras could not download {name} ({' '.join(str(error).split())}); "
                "with no network, pass the path of a .npz file or a folder of images."
            ) from error
        arrays = {
            "train": _checked("x_train", x_train, "y_train", y_train),
            "test": _checked("x_test", x_test, "y_test", y_test),
        }
        return _array_contents(arrays, _KERAS_CLASS_NAMES[name])

    return Source(name, f"keras:{name}", ("train", "test"), read)


def _is_tf_dataset(source):
    """Whether `source` is a `tf.data.Dataset`, without importing TensorFlow."""
    return any(
        base.__name__ == "DatasetV2" and base.__module__.startswith("tensorflow.")
        for base in type(source).__mro__
    )


def _tf_dataset(dataset):
    spec = dataset.element_spec
    spec = spec if isinstance(spec, tuple) else (spec,)
    shapes = [getattr(element, "shape", None) for element in spec]
    if len(spec) > 2 or None in shapes or shapes[0].rank not in (3, 4):
        raise ValueError(
            "The elements of a tf.data.Dataset must be images [H, W, C] or (image, label), "
            f"or batches of them, received {dataset.element_spec}."
        )
    if dataset.cardinality().numpy() == -1:  # tf.data.INFINITE_CARDINALITY
        raise ValueError("The tf.data.Dataset is infinite; leave out its repeat().")

    def read():
        images, labels = [], []
        for element in dataset.as_numpy_iterator():
            element = element if isinstance(element, tuple) else (element,)
            batch = [part if shapes[0].rank == 4 else part[None] for part in element]
            check_images(batch[0], "The images of the tf.data.Dataset")
            images.extend(batch[0])
            if len(batch) == 2:
                what = "The labels of the tf.data.Dataset"
                labels.extend(check_labels(batch[1], len(batch[0]), what).tolist())
        if not images:
            raise ValueError("The tf.data.Dataset is empty; expected at least one image.")
        items = _array_items("dataset", images, labels or None)
        return Contents({"train": Part(len(images), items)}, _common_shape(images))

    return Source("dataset", "tf.data.Dataset", ("train",), read)


def _array_contents(arrays, class_names=None):
    """`Contents` of a dict of split name to `(images [N, H, W, C], labels [N] or None)`."""
    shapes = {images.shape[1:] for images, _ in arrays.values()}
    parts = {
        name: Part(len(images), _array_items(name, images, labels))
        for name, (images, labels) in arrays.items()
    }
    return Contents(parts, shapes.pop() if len(shapes) == 1 else None, class_names)


def _array_items(name, images, labels):
    labels = [None] * len(images) if labels is None else labels
    return [(f"{name}[{i}]", image, labels[i]) for i, image in enumerate(images)]


def _common_shape(images):
    shapes = {image.shape for image in images}
    return shapes.pop() if len(shapes) == 1 else None


def _checked(images_name, images, labels_name, labels):
    """`(images [N, H, W, C], labels [N] or None)`; `ValueError` if they are something else."""
    images = images[..., None] if images.ndim == 3 else images
    check_images(images, images_name)
    if labels is not None:
        labels = check_labels(labels, len(images), labels_name)
    return images, labels


# Files


def _npz(path, description):
    try:
        with zipfile.ZipFile(path) as file:
            names = {name.removesuffix(".npy") for name in file.namelist()}
    except zipfile.BadZipFile:
        raise ValueError(f"{description} is not a .npz file, or is cut off.") from None
    if "x_train" not in names:
        raise ValueError(
            f"{description} has no array x_train, it has {', '.join(sorted(names)) or 'none'}; "
            "expected x_train and, where there are, y_train, x_val, y_val, x_test, y_test."
        )
    suffixes = {"train": "train", "validation": "val", "test": "test"}
    suffixes = {split: suffix for split, suffix in suffixes.items() if f"x_{suffix}" in names}
    labelled = {split for split, suffix in suffixes.items() if f"y_{suffix}" in names}
    if labelled and labelled != set(suffixes):
        missing = sorted(f"y_{suffixes[split]}" for split in set(suffixes) - labelled)
        raise ValueError(
            f"{description} has labels for {', '.join(sorted(labelled))} only: "
            f"{', '.join(missing)} is missing."
        )

    def read():
        arrays = {}
        with np.load(path) as file:
            for split, suffix in suffixes.items():
                x, y = f"x_{suffix}", f"y_{suffix}"
                try:
                    images, labels = file[x], file[y] if labelled else None
                except (ValueError, OSError, zipfile.BadZipFile) as error:
                    raise ValueError(f"{description}: {x} cannot be read: {error}") from None
                arrays[split] = _checked(
                    f"{x} of {description}", images, f"{y} of {description}", labels
                )
        return _array_contents(arrays)

    with open(path, "rb") as file:
        key = hashlib.file_digest(file, "sha256").hexdigest()
    return Source(path.stem, description, tuple(suffixes), read, key)


_SPLIT_FOLDERS = {
    "train": "train",
    "test": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}

# Pictures of formats that are not decoded: to leave one out in silence would lose it.
_OTHER_PICTURES = (
    *(".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".jfif", ".tga", ".ico"),
    *(".ppm", ".pgm", ".pbm", ".svg", ".psd", ".dng", ".cr2", ".nef", ".arw", ".exr", ".hdr"),
)

_RECORD = "dataset.json"  # what `kgen generate` says of the images beside it


def _folder(root, description, recursive):
    found, other = _list_files(root)
    files = {}
    for path, stamps in found.items():
        if path.lower().endswith((*SUFFIXES, *_OTHER_PICTURES)):
            files[path] = stamps
        elif path != _RECORD:
            other.append(path)
    wrapping = _wrapping([path for path in files if path.lower().endswith(SUFFIXES)])
    inside = [path.removeprefix(wrapping) for path in found if path.startswith(wrapping)]
    split_of = _split_folders(inside, description)

    # Sort the files into splits. What is left of a path says its class, or that it has none.
    skipped, images = [], {}
    for path in files:
        top, _, rest = "", "", path.removeprefix(wrapping)
        if split_of:
            top, _, rest = rest.partition("/")
        if not path.lower().endswith(SUFFIXES):
            skipped.append((path, f"not a {', '.join(SUFFIXES)} file"))
        elif not rest or (split_of and top not in split_of):
            skipped.append((path, f"outside {', '.join(f'{top}/' for top in split_of)}"))
        else:
            class_name = rest.partition("/")[0] if "/" in rest and not recursive else None
            images.setdefault(split_of.get(top, "train"), []).append((path, class_name))
    for top, split in (split_of or {"": "train"}).items():
        if split not in images:
            folder = os.path.join(description, wrapping + top) if top else description
            raise ValueError(
                f"{folder} holds no image; expected {', '.join(SUFFIXES)} files, or one "
                "subfolder of them per class."
            )
    classes = {split: {name for _, name in paths} for split, paths in images.items()}
    class_names = set().union(*classes.values())
    if None in class_names and len(class_names) > 1:
        example = next(path for files in images.values() for path, name in files if name is None)
        raise ValueError(
            f"{description} has class subfolders, but {example} lies in none; put every image "
            "into a class subfolder, or none, or leave the classes out with recursive=True "
            "(--recursive)."
        )
    for top, split in split_of.items():
        if alone := sorted(classes[split] - classes["train"] - {None}):
            warnings.warn(
                f"{description} has no training image of {', '.join(alone[:5])}, which {top}/ has: "
                "a class that is not trained.",
                stacklevel=4,
            )
    class_names = None if None in class_names else sorted(class_names)
    index = {name: index for index, name in enumerate(class_names or [])}

    def read():
        parts = {
            split: Part(
                len(paths), [(path, os.path.join(root, path), index.get(c)) for path, c in paths]
            )
            for split, paths in images.items()
        }
        return Contents(parts, None, class_names, skipped)

    # The images alone are the key, unless they are not taken as an older version took them.
    key = [files, wrapping, recursive] if wrapping or recursive else files
    alike = [{path: size for path, (size, *_) in files.items()}, wrapping, recursive]
    name = root.resolve().name
    return Source(name, description, tuple(images), read, key, alike, tuple(sorted(other)))


def _wrapping(images):
    """The folder, with a slash behind it, in whose subfolders alone the images lie, or `""`.

    A folder that holds images itself is none, but a class.
    """
    wrapping = ""
    while True:
        inside = [path.removeprefix(wrapping) for path in images]
        tops = {path.partition("/")[0] for path in inside}
        if len(tops) != 1 or not all(path.count("/") > 1 for path in inside):
            return wrapping
        (top,) = tops
        if top.lower() in _SPLIT_FOLDERS:
            return wrapping
        wrapping += f"{top}/"


def _split_folders(files, description):
    """Dict of top folder to split, empty for a folder that is not divided into splits."""
    tops = {path.partition("/")[0] for path in files if "/" in path}
    found = {
        top: _SPLIT_FOLDERS[top.lower()] for top in sorted(tops) if top.lower() in _SPLIT_FOLDERS
    }
    splits = list(found.values())
    if "train" in splits and (len(found) > 1 or tops == set(found)):
        for split in splits:
            if splits.count(split) > 1:
                raise ValueError(
                    f"{description} has two folders for {split} "
                    f"({', '.join(top for top in found if found[top] == split)}); keep one."
                )
        return found
    if tops and tops == set(found):
        raise ValueError(
            f"{description} has {', '.join(found)} but no train; expected train/ and, where "
            "there are, validation/ and test/."
        )
    return {}  # a class may well be called "train"


def _list_files(root):
    """The visible files of a folder, to find images and to know whether they changed.

    Returns a sorted dict of relative path (with `/`) to `(size, mtime_ns, ctime_ns)`, and a list
    of what is neither file nor folder. A link to a folder that it lies in is not followed.

    A file's content cannot change without its ctime, which, unlike its mtime, no program can
    set back; and two files with one relative path, size and mtime (two unpacked archives of
    bitmaps) still differ in it. So these numbers are as safe a key as the files' contents,
    without reading them.
    """
    files, other = {}, []
    folders = [("", (os.path.realpath(root),))]  # with its real path, and those above it
    while folders:
        folder, above = folders.pop()
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                if entry.name[0] == ".":
                    continue
                path = folder + entry.name
                try:
                    status = entry.stat()
                except OSError:  # a link that leads nowhere, or to itself
                    status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    if entry.name[0] == "_":
                        continue
                    real = os.path.join(above[-1], entry.name)
                    if entry.is_symlink():
                        real = os.path.realpath(real)
                        if any(f"{path}/".startswith(f"{real.rstrip('/')}/") for path in above):
                            other.append(f"{path} (a link to a folder that it lies in)")
                            continue
                    folders.append((f"{path}/", (*above, real)))
                elif stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
                    files[path] = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                else:  # to open a pipe would wait for ever
                    other.append(f"{path} (a device, a pipe or a socket)")
    return dict(sorted(files.items())), other


# tensorflow-datasets


def _tfds(name, data_dir):
    try:
        import keras
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError(
            f"Source 'tfds:{name}' needs tensorflow and tensorflow-datasets ({error})."
        ) from error
    if keras.config.backend() != "tensorflow":
        with contextlib.suppress(RuntimeError):  # TensorFlow has been used already
            tf.config.set_visible_devices([], "GPU")  # or it takes the memory of the backend
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.registered.DatasetNotFoundError, ValueError) as error:
        known = {known: f"tfds:{known}" for known in tfds.list_builders()}
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"Unknown source 'tfds:{name}'{_nearest(name, known)} {reason}") from None
    features = builder.info.features
    image_key = _only_feature(features, "image", tfds.features.Image)
    label_key = _only_feature(features, "label", tfds.features.ClassLabel)
    if image_key is None:
        raise ValueError(f"'tfds:{name}' has no image; its features are {', '.join(features)}.")
    if features[image_key].np_dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"The images of 'tfds:{name}' must be uint8 or uint16, received "
            f"{np.dtype(features[image_key].np_dtype)}."
        )

    try:
        builder.download_and_prepare()
    except Exception as error:  # anything, from the network to a full disk
        raise OSError(
            f"tensorflow-datasets could not prepare {name} "
            f"({' '.join(str(error).split())[:300]}); is data_dir right, is there a network?"
        ) from error
    splits = [split for split in ("train", "validation", "test") if split in builder.info.splits]
    if "train" not in splits:
        raise ValueError(
            f"'tfds:{name}' has no split train, it has {', '.join(builder.info.splits) or 'none'}."
        )

    wanted = {key for key in (image_key, label_key) if key is not None}
    encoded = {image_key: tfds.decode.SkipDecoding()}  # so that `decoding` treats all files alike

    def items(split):
        dataset = builder.as_dataset(
            split=split,
            shuffle_files=False,
            decoders=tfds.decode.PartialDecoding(wanted, decoders=encoded),
            read_config=tfds.ReadConfig(interleave_cycle_length=1),
        )
        for index, example in enumerate(dataset.as_numpy_iterator()):
            label = None if label_key is None else int(example[label_key])
            yield f"{split}[{index}]", example[image_key], label

    def read():
        parts = {
            split: Part(builder.info.splits[split].num_examples, _Again(items, split))
            for split in splits
        }
        shape = features[image_key].shape
        names = None if label_key is None else list(features[label_key].names)
        return Contents(parts, None if None in shape else tuple(shape), names)

    key = [builder.info.full_name, _list_files(builder.data_path)[0]]
    return Source(builder.name, f"tfds:{name}", tuple(splits), read, key)


def _only_feature(features, name, kind):
    """`name`, or else the one feature of this kind, or `None`."""
    keys = [key for key, feature in features.items() if isinstance(feature, kind)]
    return name if name in keys else keys[0] if len(keys) == 1 else None


class _Again:
    """An iterable that calls a generator function anew for every iteration."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __iter__(self):
        return self.function(*self.args)
