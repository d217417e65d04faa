"""Datasets of batches, given to `fit` and `evaluate`, are held to what arrays are held to."""

import functools
import itertools

import keras
import numpy as np
import pytest
from keras import ops

from kgen.data import Split
from kgen.image_generator import ImageGenerator

IMAGES = np.random.default_rng(0).integers(0, 256, (32, 4, 4, 1), "uint8")
LABELS = np.arange(32, dtype="int32") % 3


@keras.saving.register_keras_serializable(package="kgen_tests")
class Brightness(ImageGenerator):
    """Learns the mean grey level, by class if there are any."""

    def __init__(self, image_shape=(4, 4, 1), num_classes=None, seed=0, **kwargs):
        super().__init__(image_shape, num_classes, seed, **kwargs)
        self.level = self.add_weight((num_classes or 1,), "zeros", name="level")
        self.built = True

    def objective(self, batch, training):
        x = ops.mean(ops.cast(batch.images, "float32"), axis=(1, 2, 3)) / 255
        level = self.level if batch.labels is None else ops.take(self.level, batch.labels, axis=0)
        loss = ops.mean(ops.square(x - level))
        return loss, {"loss": loss}


def compiled(num_classes=3):
    model = Brightness(num_classes=num_classes)
    model.compile(keras.optimizers.SGD(0.1))
    return model


@functools.cache
def shared(num_classes=3):
    """A model whose step is traced once, for tests that look at errors."""
    return compiled(num_classes)


class Listed(keras.utils.PyDataset):
    def __init__(self, batches, **kwargs):
        super().__init__(**kwargs)
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def tf_data(batches):
    tf = pytest.importorskip("tensorflow")
    columns = keras.tree.map_structure(lambda *parts: np.stack(parts), *batches)
    return tf.data.Dataset.from_tensor_slices(columns)


KINDS = {
    "tf.data": tf_data,
    "PyDataset": Listed,
    "threads": lambda batches: Listed(batches, workers=2),
    "generator": lambda batches: (batch for batch in batches),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def pairs(images=IMAGES, labels=LABELS):
    return [(images[i : i + 8], labels[i : i + 8]) for i in range(0, 32, 8)]


@functools.cache
def of_arrays():
    """What training on arrays, and measuring them afterwards, gives."""
    model = compiled()
    validation = {"validation_data": (IMAGES, LABELS), "shuffle": False}
    history = model.fit(IMAGES, LABELS, batch_size=8, verbose=0, **validation).history
    return history, model.evaluate(IMAGES, LABELS, batch_size=8, verbose=0)


@kinds
def test_a_dataset_trains_as_its_arrays_do(kind):
    model = compiled()
    validation = {"validation_data": KINDS[kind](pairs())}
    history = model.fit(KINDS[kind](pairs()), verbose=0, **validation).history
    assert (history, model.evaluate(KINDS[kind](pairs()), verbose=0)) == of_arrays()


FAULTS = {
    "floats": (3, pairs(IMAGES / np.float32(255)), "uint8 .* Received: float32 .* 0 to 255"),
    "ints": (3, pairs(IMAGES.astype("int32") * 2), "images must be uint8 .* Received: int32"),
    "shape": (3, pairs(IMAGES[:, :3]), r"\[B, 4, 4, 1\]. Received: uint8 \[\S*, 3, 4, 1\]"),
    "not batched": (None, list(IMAGES[:4]), r"Received: uint8 \[4, 4, 1\].* dataset.batch\(64\)"),
    "float labels": (3, pairs(labels=LABELS / 1), "labels must be integers .*float64"),
    "one-hot": (3, pairs(labels=np.eye(3, dtype="int32")[LABELS]), r"int32 \[\S*, 3\]"),
    "no classes": (None, pairs(), "Brightness is unconditional"),
    "no labels": (3, list(IMAGES.reshape(4, 8, 4, 4, 1)), "Brightness is class-conditional"),
    "a dict": (3, [{"image": x, "label": y} for x, y in pairs()], "a dict of image, label"),
    "weights": (3, [(x, y, np.ones(8)) for x, y in pairs()], "no weights"),
}


@kinds
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_said_before_the_first_step(kind, fault):
    num_classes, batches, message = FAULTS[fault]
    model = shared(num_classes)
    before = model.steps_trained
    for use in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=f"In a batch of the dataset .*{message}"):
            use(KINDS[kind](batches), verbose=0)
    assert model.steps_trained == before


@kinds
@pytest.mark.parametrize("wrong", [3, -1])
def test_labels_out_of_range_are_found_in_any_batch(kind, wrong):
    labels = LABELS.copy()
    labels[29] = wrong
    model = shared()
    for use in (
        lambda x: model.fit(x, verbose=0),
        lambda x: model.fit(IMAGES, LABELS, batch_size=8, validation_data=x, verbose=0),
        lambda x: model.evaluate(x, verbose=0),
    ):
        with pytest.raises(ValueError, match=f"labels must be in 0 to 2. Received: {wrong}$"):
            use(KINDS[kind](pairs(labels=labels)))


def test_what_tf_data_does_not_state_is_checked_as_it_runs():
    tf = pytest.importorskip("tensorflow")

    def unknown(shape):
        def read(i):
            images = tf.py_function(lambda: tf.zeros(shape, tf.uint8), [], tf.uint8)
            return images, tf.zeros([8], tf.int64)

        return tf.data.Dataset.range(4).map(read)

    model = shared()
    model.fit(unknown((8, 4, 4, 1)), verbose=0)
    for shape, message in (
        ((8, 4, 5, 1), "Received: 4, 5, 1"),
        ((4, 4, 1), "Received: 4, 1"),
        ((7, 4, 4, 1), "labels must be one per image. Received: 8"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(unknown(shape), verbose=0)


def test_small_integers_name_many_classes():
    model, labels = shared(300), LABELS.astype("uint8") + 250
    for kind in ("tf.data", "PyDataset"):
        assert np.isfinite(model.evaluate(KINDS[kind](pairs(labels=labels)), verbose=0)).all()


def test_a_generator_with_too_few_labels():
    batches = [(IMAGES[:8], LABELS[:7])] * 3
    with pytest.raises(ValueError, match="labels must be one per image"):
        shared().fit((batch for batch in batches), verbose=0)


def test_batches_of_a_split_are_checked_as_the_split():
    split = Split(IMAGES, LABELS)
    shared(None).fit(split.batches(8), verbose=0)  # an unconditional model leaves labels out
    with pytest.raises(ValueError, match=r"0 to 1. Received: 2"):
        compiled(2).fit(split.batches(8), verbose=0)
    with pytest.raises(ValueError, match="needs labels"):
        compiled(2).fit(Split(IMAGES).batches(8), verbose=0)


# The order of the images --------------------------------------------------------------


@keras.saving.register_keras_serializable(package="kgen_tests")
class Memory(ImageGenerator):
    """Keeps the first grey level of the images of its last 16 steps, newest first."""

    def __init__(self, image_shape=(4, 4, 1), num_classes=None, seed=0, **kwargs):
        super().__init__(image_shape, num_classes, seed, **kwargs)
        self.w = self.add_weight((), "zeros", name="w")
        self.seen = self.add_weight((16, 8), "zeros", trainable=False, name="seen")
        self.built = True

    def objective(self, batch, training):
        first = ops.cast(batch.images[:, 0, 0, 0], "float32")
        if training:
            self.seen.assign(ops.concatenate([first[None], self.seen[:-1]]))
        loss = ops.square(self.w - ops.mean(first))
        return loss, {"loss": loss}

    def orders(self, epochs, length=4):
        """The orders of the last epochs, oldest first."""
        seen = ops.convert_to_numpy(self.seen).astype(int)[: epochs * length][::-1]
        return [seen[i : i + length].ravel().tolist() for i in range(0, len(seen), length)]


NUMBERED = np.arange(32, dtype="uint8").repeat(16).reshape(32, 4, 4, 1)


def memory():
    model = Memory()
    model.compile("sgd")
    return model


def train(model, **options):
    return model.fit(NUMBERED, batch_size=8, verbose=0, **options)


def test_the_order_follows_from_what_the_model_has_seen(tmp_path):
    whole = memory()
    train(whole, epochs=3)
    expected = whole.orders(3)
    assert len(set(map(tuple, expected))) == 3
    assert all(sorted(order) == list(range(32)) for order in expected)
    assert expected[1] == [
        number for batch in Split(NUMBERED).batches(8, epoch=1) for number in batch[0][:, 0, 0, 0]
    ]
    model = memory()
    for _ in range(3):
        train(model, epochs=1)
        model.save(tmp_path / "model.keras")
        model = keras.saving.load_model(tmp_path / "model.keras")
    assert model.orders(3) == expected
    # `fit` sets the epoch of batches that are the user's own, too.
    own, batches = memory(), Split(NUMBERED).batches(8)
    for epochs in (1, 2):
        own.fit(batches, epochs=epochs, verbose=0)
    assert own.orders(3) == expected


def test_a_fit_that_ended_early_goes_on_where_it_was():
    model, whole = memory(), memory()
    for _ in range(4):
        train(model, epochs=1, steps_per_epoch=2)
    train(model, epochs=1, steps_per_epoch=1)
    train(model, epochs=1)
    train(whole, epochs=4)
    expected = list(itertools.chain(*whole.orders(4)))
    assert model.orders(1, length=13) == [expected[: 13 * 8]]


class Killed(Exception):
    pass


def test_backup_and_restore_goes_on_with_the_next_order(tmp_path):
    whole = memory()
    train(whole, epochs=3)

    def kill(epoch, logs):
        if epoch == 1:
            raise Killed

    backup = {"backup_dir": str(tmp_path / "backup")}
    with pytest.raises(Killed):
        train(
            memory(),
            epochs=3,
            callbacks=[
                keras.callbacks.BackupAndRestore(**backup),
                keras.callbacks.LambdaCallback(on_epoch_end=kill),
            ],
        )
    model = memory()
    train(model, epochs=3, callbacks=keras.callbacks.BackupAndRestore(**backup))
    assert model.orders(3) == whole.orders(3)
    np.testing.assert_array_equal(model.w, whole.w)


def test_a_dataset_has_an_order_of_its_own():
    model = memory()
    batches = [(NUMBERED[i : i + 8],) for i in range(0, 32, 8)]
    model.fit(Listed(batches), epochs=2, verbose=0)
    assert model.orders(2) == [list(range(32))] * 2
