import itertools

import keras
import numpy as np
import pytest

from kgen.data import Batches, Split


def numbered(count, side=4):
    """Images that carry their own number, and differ from their mirror images."""
    images = np.zeros((count, side, side, 1), np.uint8)
    images[:, 0, 0, 0], images[:, 1, 0, 0] = np.arange(count) // 256, np.arange(count) % 256
    images[:, 2, 0, 0] = 255
    return images


def numbers(images):
    images = np.asarray(images).astype(int)
    mirrored = images[:, 2, 0, 0] == 0
    images[mirrored] = images[mirrored, :, ::-1]
    return (images[:, 0, 0, 0] * 256 + images[:, 1, 0, 0]).tolist()


def epoch_numbers(batches):
    return [numbers(batch[0]) for batch in batches]


class Recorder(keras.Model):
    """A model that notes which images each epoch of `fit` brings."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)
        self.seen = []

    def call(self, images):
        return self.dense(keras.ops.reshape(keras.ops.cast(images, "float32"), (-1, 16)))

    if keras.config.backend() == "jax":

        def train_step(self, state, data):
            self.seen.append(numbers(data[0]))
            return {"loss": np.float32(0)}, state

        def test_step(self, state, data):
            return {"loss": np.float32(np.mean(numbers(data[0])))}, state

    else:

        def train_step(self, data):
            self.seen.append(numbers(data[0]))
            return {"loss": np.float32(0)}

        def test_step(self, data):
            return {"loss": np.float32(np.mean(numbers(data[0])))}


def fit(batches, built=False, **kwargs):
    """Runs `fit` and returns what it saw, one list of batches per epoch."""
    model = Recorder()
    model.compile(optimizer="sgd", run_eagerly=True)
    if built:
        model(batches[0][0])
    model.fit(batches, shuffle=False, verbose=0, **kwargs)
    return [model.seen[i : i + len(batches)] for i in range(0, len(model.seen), len(batches))]


def orders(split, epochs, **kwargs):
    """The same by definition: fresh `Batches` for each epoch."""
    return [epoch_numbers(split.batches(epoch=epoch, **kwargs)) for epoch in epochs]


def test_every_epoch_has_every_image_once_in_its_own_order():
    split = Split(numbered(300))
    first, second = orders(split, (0, 1), batch_size=32, drop_remainder=False)
    assert sorted(itertools.chain(*first)) == sorted(itertools.chain(*second)) == list(range(300))
    assert first != second
    assert [len(batch) for batch in first] == [32] * 9 + [12]


def test_order_depends_on_seed_and_epoch_not_on_history():
    split = Split(numbered(300), horizontal_flip=True)
    batches = split.batches(32, seed=5)
    for _ in range(3):
        epoch_numbers(batches)
    batches.epoch = 7
    for index in (8, 0, 3, 8):
        fresh = split.batches(32, seed=5, epoch=7)[index][0]
        np.testing.assert_array_equal(batches[index][0], fresh)
    assert numbers(split.batches(32, seed=6, epoch=7)[0][0]) != numbers(batches[0][0])


def test_images_and_labels_stay_together():
    split = Split(numbered(300), np.arange(300) % 7, horizontal_flip=True)
    for shuffle in (True, False):
        for images, labels in split.batches(64, shuffle=shuffle):
            assert images.dtype == np.uint8 and labels.dtype == np.int32
            assert [number % 7 for number in numbers(images)] == labels.tolist()


def test_without_shuffle_the_order_is_that_of_the_split():
    split = Split(numbered(100), horizontal_flip=True)
    batches = split.batches(32, shuffle=False, drop_remainder=False, epoch=3)
    np.testing.assert_array_equal(np.concatenate([batch[0] for batch in batches]), split.images)


def test_horizontal_flip_mirrors_about_half_of_the_images():
    images = numbered(2000)
    (plain,) = Split(images).batches(2000)[0]
    (flipped,) = Split(images, horizontal_flip=True).batches(2000)[0]
    same = (plain == flipped).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(plain[~same], flipped[~same, :, ::-1])
    assert 0.45 < same.mean() < 0.55
    np.testing.assert_array_equal(images, numbered(2000))  # the source is left alone


@pytest.mark.parametrize(("drop_remainder", "length"), [(True, 3), (False, 4)])
def test_length(drop_remainder, length):
    batches = Split(numbered(100)).batches(32, drop_remainder=drop_remainder)
    assert len(batches) == len(list(batches)) == length
    with pytest.raises(IndexError):
        batches[length]


def test_a_split_smaller_than_a_batch_gives_one_batch():
    batches = Split(numbered(5)).batches(32, drop_remainder=True)
    assert [sorted(batch) for batch in epoch_numbers(batches)] == [[0, 1, 2, 3, 4]]


def test_memory_mapped_images_give_the_same_batches(tmp_path):
    np.save(tmp_path / "images.npy", numbered(300))
    mapped = Split(np.load(tmp_path / "images.npy", mmap_mode="r"), horizontal_flip=True)
    kept = Split(numbered(300), horizontal_flip=True)
    for (left,), (right,) in zip(mapped.batches(32), kept.batches(32), strict=True):
        np.testing.assert_array_equal(left, right)
        assert type(left) is np.ndarray


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize("count", [20, 320])  # 1 batch: fit's first look at it is a whole epoch
def test_fit_gets_the_order_of_each_epoch(built, count):
    split = Split(numbered(count))
    seen = fit(split.batches(32, seed=3), built, epochs=4)
    assert seen == orders(split, range(4), batch_size=32, seed=3)


@pytest.mark.parametrize("built", [True, False])
def test_a_resumed_fit_gets_the_orders_of_the_fit_that_was_not_interrupted(built):
    split = Split(numbered(320))
    whole = fit(split.batches(32), epochs=5)
    batches = split.batches(32)
    first = fit(batches, epochs=2)
    assert batches.epoch == 2
    batches.epoch = 2
    second = fit(batches, built, epochs=5, initial_epoch=2)
    assert whole == first + second
    assert whole[3:] == fit(split.batches(32, epoch=3), epochs=5, initial_epoch=3)


def test_a_second_fit_goes_on_where_the_first_ended():
    split, model = Split(numbered(320)), Recorder()
    batches = split.batches(32)
    model.compile(optimizer="sgd", run_eagerly=True)
    model.fit(batches, epochs=2, shuffle=False, verbose=0)
    model.fit(batches, epochs=2, shuffle=False, verbose=0)
    assert model.seen == list(itertools.chain(*orders(split, range(4), batch_size=32)))


def test_fit_with_validation_batches():
    split, validation = Split(numbered(320)), Split(numbered(100))
    model = Recorder()
    model.compile(optimizer="sgd", run_eagerly=True)
    history = model.fit(
        split.batches(32),
        validation_data=validation.batches(50, shuffle=False),
        epochs=3,
        shuffle=False,
        verbose=0,
    ).history
    assert model.seen == list(itertools.chain(*orders(split, range(3), batch_size=32)))
    assert len(history["val_loss"]) == 3
    assert len(set(history["val_loss"])) == 1  # the same batches every time


def test_fit_with_several_steps_per_execution():
    split, model = Split(numbered(320)), Recorder()
    model.compile(optimizer="sgd", run_eagerly=True, steps_per_execution=5)
    model.fit(split.batches(32), epochs=3, shuffle=False, verbose=0)
    assert model.seen == list(itertools.chain(*orders(split, range(3), batch_size=32)))


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="tf.distribute")
@pytest.mark.parametrize("count", [20, 320])
def test_fit_under_a_strategy_gets_the_order_of_each_epoch(count):
    import tensorflow as tf

    split = Split(numbered(count))
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():  # builds from a first look at the data
        seen = fit(split.batches(32), epochs=4)
    assert seen == orders(split, range(4), batch_size=32)


def test_batches_is_a_py_dataset_of_the_public_package():
    batches = Split(numbered(8)).batches(4)
    assert isinstance(batches, Batches) and isinstance(batches, keras.utils.PyDataset)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((4, 8, 8, 1)), None, "images must be uint8 .* received float64"),
        ([[1, 2]], None, "images must be uint8 .* received list"),
        (np.zeros((4, 8, 8), "uint8"), None, r"\[N, H, W, C\].* received \[4, 8, 8\]"),
        (np.zeros((4, 3, 8, 8), "uint8"), None, r"channels \(last\), received \[4, 3, 8, 8\]"),
        (np.zeros((0, 8, 8, 3), "uint8"), None, r"at least one image .* received \[0, 8, 8, 3\]"),
        (np.zeros((4, 8, 8, 1), "uint8"), np.zeros(4), "labels must be integers.* float64"),
        (np.zeros((4, 8, 8, 1), "uint8"), [0, 1, 2], r"labels must have shape \[4\].* \[3\]"),
        (np.zeros((4, 8, 8, 1), "uint8"), [0, 1, 2, -1], "labels must be 0 or more, received -1"),
    ],
)
def test_split_says_what_is_wrong(images, labels, message):
    with pytest.raises(ValueError, match=message):
        Split(images, labels)


def test_batch_size_must_be_positive():
    with pytest.raises(ValueError, match="batch_size must be a positive int"):
        Split(numbered(8)).batches(0)
