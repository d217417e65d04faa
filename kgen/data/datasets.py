"""Datasets of batches, held to what a model takes as arrays are."""

import contextlib
import dataclasses
import re

import keras
import numpy as np

#: What every error says first; TensorFlow wraps what is raised inside of its pipelines.
_WHERE = "In a batch of the dataset"


@dataclasses.dataclass(frozen=True)
class Takes:
    """What a model takes: uint8 images of a shape, and labels where it has classes.

    Args:
        model: String, its name.
        image_shape: Tuple `(H, W, C)`.
        num_classes: Int, or `None` for an unconditional model.
        input_shape: Tuple `(h, w, c)` of what images are to be made of, which comes before them in
            a batch; or `None`.
    """

    model: str
    image_shape: tuple
    num_classes: int | None
    input_shape: tuple | None = None

    def check(self, x):
        """The dataset, checked: dtype and shape at once where it states them, the rest as it runs.

        `x` is a `tf.data.Dataset`, a `keras.utils.PyDataset` or a generator, of batches `images` or
        `(images, labels)`. A `ValueError` says what is wrong, see `plain_errors`.
        """
        if hasattr(x, "element_spec"):
            return self._check_tf_data(x)
        if isinstance(x, keras.utils.PyDataset):
            return _Checked(x, self)
        return (self.batch(batch) for batch in x)  # Keras knows a generator by its type

    def batch(self, batch):
        """A batch as a tuple of arrays `(images,)` or `(images, labels)`; else a `ValueError`."""
        parts = [_array(part) for part in self._parts(batch)]
        self._check_specs(*parts)
        if self.input_shape is not None:
            return tuple(parts)
        images, *labels = parts
        for label in labels:
            label = np.asarray(label)
            if len(label) != len(images):
                self._fail("labels must be one per image", f"{len(label)} for {len(images)} images")
            wrong = label[(label < 0) | (label >= self.num_classes)]
            if wrong.size:
                self._fail(self._range(), wrong.flat[0])
        return (images, *labels)

    def _check_tf_data(self, x):
        import tensorflow as tf

        if not isinstance(x, tf.data.Dataset):
            raise ValueError(
                "A dataset that a strategy of tf.distribute has shared out cannot be used. Give "
                "the tf.data.Dataset itself, inside of kgen.training.distribution.data_parallel(). "
                f"Received: {type(x).__name__}"
            )
        specs = self._parts(x.element_spec)
        self._check_specs(*specs)
        shape_known = all(
            spec.shape.rank is not None and spec.shape[1:].is_fully_defined()
            for spec in (specs if self.input_shape is not None else specs[:1])
        )
        if shape_known and self.num_classes is None:
            return x
        if self.input_shape is not None:
            shapes = (self.input_shape, self.image_shape)
            return x.map(
                lambda *parts: tuple(
                    tf.ensure_shape(part, (None, *shape))
                    for part, shape in zip(parts, shapes, strict=True)
                )
            )

        def check(images, *labels):
            checks = []

            def hold(condition, rule, received):
                # The operator itself: tf.debugging.Assert is a branch, of ten times the cost.
                checks.append(
                    tf.raw_ops.Assert(condition=condition, data=[self._said(rule), received])
                )

            if not shape_known:
                sides = tf.strings.as_string(tf.shape(images)[1:])
                shape = tf.strings.reduce_join(sides, separator=", ")
                hold(shape == ", ".join(map(str, self.image_shape)), self._images(), shape)
            for label in labels:  # one, or none
                count = tf.size(label)
                hold(count == tf.shape(images)[0], "labels must be one per image", count)
                wide = tf.cast(tf.reshape(label, [-1]), "int64")  # uint8 does not reach 256 classes
                right = (wide >= 0) & (wide < self.num_classes)
                first = tf.gather(wide, tf.argmin(tf.cast(right, "int32")))
                hold(tf.reduce_all(right), self._range(), first)
            with tf.control_dependencies(checks):
                images = tf.ensure_shape(images, (None, *self.image_shape))
            return (images, *labels)

        return x.map(check)

    def _parts(self, batch):
        """The images of a batch, and the labels, or what stands for them."""
        if isinstance(batch, dict):
            self._fail(
                "images and labels must come as a tuple (images, labels)",
                f"a dict of {', '.join(map(str, batch))}",
            )
        parts = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
        if len(parts) == 3 and parts[2] is None:
            parts = parts[:2]
        if len(parts) == 2 and parts[1] is None:
            parts = parts[:1]
        if self.input_shape is not None:
            if len(parts) != 2:
                self._fail(
                    f"there must be (inputs, images), of which {self.model} learns",
                    f"{len(parts)} parts",
                )
            return parts
        if len(parts) == 3:
            self._fail("there must be no weights, for the losses are no sums over rows", "three")
        if len(parts) > 3 or not parts:
            self._fail("there must be images, or (images, labels)", f"{len(parts)} parts")
        if self.num_classes is None and len(parts) == 2:
            self._fail(
                f"there must be images alone, because {self.model} is unconditional",
                "(images, labels)",
            )
        if self.num_classes is not None and len(parts) == 1:
            self._fail(
                f"there must be (images, labels), because {self.model} is class-conditional",
                "images alone",
            )
        return parts

    def _check_specs(self, images, labels=None):
        """Checks dtypes and shapes, of arrays or of what TensorFlow says of them before."""
        if self.input_shape is not None:
            inputs, images, labels = images, labels, None
            dtype, shape = _dtype_and_shape(inputs)
            if dtype != "uint8" or not _fits(shape, (None, *self.input_shape)):
                sides = ", ".join(map(str, self.input_shape))
                self._fail(f"inputs must be uint8 [B, {sides}]", f"{dtype} {_text(shape)}.")
        dtype, shape = _dtype_and_shape(images)
        if dtype != "uint8" or not _fits(shape, (None, *self.image_shape)):
            hint = ""
            if shape is not None and _fits(shape, self.image_shape):
                hint = " Cut the dataset into batches, by dataset.batch(64)."
            elif dtype.startswith("float"):
                hint = " Grey levels are whole numbers from 0 to 255."
            self._fail(self._images(), f"{dtype} {_text(shape)}.{hint}")
        if labels is not None:
            dtype, shape = _dtype_and_shape(labels)
            if "int" not in dtype or not (_fits(shape, (None,)) or _fits(shape, (None, 1))):
                self._fail(
                    "labels must be integers [B], the class of each image",
                    f"{dtype} {_text(shape)}",
                )

    def _images(self):
        return f"images must be uint8 [B, {', '.join(map(str, self.image_shape))}]"

    def _range(self):
        return f"labels must be in 0 to {self.num_classes - 1}"

    def _said(self, rule):
        return f"{_WHERE} {rule}. Received:"

    def _fail(self, rule, received):
        raise ValueError(f"{self._said(rule)} {received}")


class _Checked(keras.utils.PyDataset):
    """A `PyDataset` whose batches are checked when they are read."""

    def __init__(self, batches, takes):
        super().__init__(
            workers=batches.workers,
            use_multiprocessing=batches.use_multiprocessing,
            max_queue_size=batches.max_queue_size,
        )
        self.batches, self.takes = batches, takes

    @property
    def num_batches(self):
        return self.batches.num_batches

    def __getitem__(self, index):
        return self.takes.batch(self.batches[index])

    def on_epoch_begin(self):
        self.batches.on_epoch_begin()

    def on_epoch_end(self):
        self.batches.on_epoch_end()


def is_dataset(x):
    """Whether `x` yields batches, and is no array."""
    return (
        isinstance(x, keras.utils.PyDataset)
        or hasattr(x, "element_spec")
        or (hasattr(x, "__next__") and hasattr(x, "__iter__"))
    )


@contextlib.contextmanager
def plain_errors():
    """A check's own `ValueError` in place of the error of the pipeline that it was raised in."""
    try:
        yield
    except Exception as error:
        found = re.search(f"{_WHERE} .*", str(error))
        if found is None or type(error) is ValueError:
            raise
        # TensorFlow gives what an assertion says, and the value, in brackets.
        text, *value = found[0].split("Received:] [")
        raise ValueError(f"{text}Received: {value[0].rstrip(']')}" if value else text) from None


def _array(part):
    """What has a NumPy dtype as it is, for it may lie on a device; else as a NumPy array."""
    return part if isinstance(getattr(part, "dtype", None), np.dtype) else np.asarray(part)


def _dtype_and_shape(part):
    """The name of a dtype, and a tuple of sides, `None` where one, or all, are not known yet."""
    if isinstance(getattr(part, "dtype", None), np.dtype):
        return part.dtype.name, tuple(part.shape)
    if type(part).__name__ != "TensorSpec":
        return type(part).__name__, None
    return part.dtype.name, None if part.shape.rank is None else tuple(part.shape)


def _fits(shape, expected):
    if shape is None:
        return True
    return len(shape) == len(expected) and all(
        None in (side, other) or side == other for side, other in zip(shape, expected, strict=True)
    )


def _text(shape):
    if shape is None:
        return "of unknown shape"
    return f"[{', '.join('?' if side is None else str(side) for side in shape)}]"
