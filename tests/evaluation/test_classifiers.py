import keras
import numpy as np
import pytest
from keras import ops

import kgen
from kgen.data import Split
from kgen.evaluation import classifiers


def noise(n, shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype="uint8")


@pytest.fixture(scope="module")
def digits():
    """Images and labels of 8x8 digits, for training and for testing."""
    data = kgen.data.load("digits", validation_fraction=0, progress=False)
    return data.train.images, data.train.labels, data.test.images, data.test.labels


NETWORKS = pytest.mark.parametrize(
    "build, largest",
    [(classifiers.lenet, 500_000), (classifiers.cifar_network, 1_000_000)],
    ids=["lenet", "cifar_network"],
)


@NETWORKS
@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (8, 8, 1), (16, 16, 3), (9, 7, 4)])
def test_network(build, largest, shape):
    network = build(shape, 7)
    features = keras.Model(network.input, network.get_layer("features").output)
    images = noise(3, shape)
    hidden = ops.convert_to_numpy(features(images))
    assert hidden.shape == (3, 128) and (hidden >= 0).all() and hidden.std(axis=0).any()
    kernel, bias = network.get_layer("logits").get_weights()
    np.testing.assert_allclose(
        classifiers.forward(network)(images), hidden @ kernel + bias, rtol=1e-4, atol=1e-5
    )
    assert network.count_params() <= largest


@NETWORKS
def test_weights_depend_on_the_seed_alone(build, largest):
    def weights(seed, anything):
        keras.utils.set_random_seed(anything)
        return [w for w in build((8, 8, 1), 3, seed).get_weights() if w.ndim > 1]

    for one, same, other in zip(weights(0, 1), weights(0, 2), weights(1, 1), strict=True):
        np.testing.assert_array_equal(one, same)
        assert not np.isclose(one, other).mean() > 0.01


@NETWORKS
def test_float32_under_a_mixed_policy(build, largest):
    images = noise(4, (8, 8, 3))
    expected = classifiers.forward(build((8, 8, 3), 5))(images)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        found = classifiers.forward(build((8, 8, 3), 5))(images)
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("count", [1, 4, 10])
def test_forward_in_batches(count):
    network = classifiers.cifar_network((8, 8, 3), 5)
    images = noise(count, (8, 8, 3))
    expected = ops.convert_to_numpy(network(images, training=False))
    found = classifiers.forward(network, batch_size=4)(images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(classifiers.classify(network, images, 4), expected.argmax(1))


def test_forward_follows_the_weights():
    network = classifiers.lenet((8, 8, 1), 2)
    run, images = classifiers.forward(network), noise(2, (8, 8, 1))
    before = run(images)
    network.get_layer("logits").bias.assign([3.0, 5.0])
    np.testing.assert_allclose(run(images) - before, [[3, 5], [3, 5]], rtol=1e-5)


def test_training_depends_on_the_seed_alone_and_ends_at_learning_rate_zero(digits):
    images, labels, _, _ = digits

    def trained(seed, anything):
        keras.utils.set_random_seed(anything)
        network = classifiers.lenet((8, 8, 1), 10)
        classifiers.train(network, Split(images[:256], labels[:256]), 2, 64, seed=seed)
        assert int(network.optimizer.iterations) == 8
        assert float(network.optimizer.learning_rate) == pytest.approx(0, abs=1e-9)
        return np.concatenate([w.ravel() for w in network.get_weights()])

    one = trained(0, 1)
    np.testing.assert_allclose(trained(0, 2), one, atol=1e-6)
    assert np.abs(trained(1, 1) - one).max() > 1e-3  # the order of the images


def test_score_of_real_images(digits):
    images, labels, test_images, test_labels = digits
    score = classifiers.classification_accuracy_score
    assert score(images, labels, test_images, test_labels, epochs=10) > 0.9


@pytest.mark.slow
def test_score_of_real_images_and_of_wrong_labels(digits):
    images, labels, test_images, test_labels = digits
    score = classifiers.classification_accuracy_score
    good = score(images, labels, test_images, test_labels)
    wrong = score(images, np.roll(labels, 1), test_images, test_labels)
    assert good > 0.9 and wrong < 0.4
    assert score(images, labels, test_images, test_labels, seed=0) == good


@pytest.mark.slow
def test_score_of_few_images(digits):
    """It is not the shortness of the training that is measured."""
    images, labels, test_images, test_labels = digits
    score = classifiers.classification_accuracy_score
    few = images[:150], labels[:150], test_images, test_labels
    assert score(*few) > 0.7 > score(*few, epochs=5)


def test_score_of_classes_swapped(digits):
    """What is learned is tested: with the classes renamed, the score turns around."""
    images, labels, test_images, test_labels = digits
    some, others = labels < 2, test_labels < 2
    score = classifiers.classification_accuracy_score(
        images[some], 1 - labels[some], test_images[others], test_labels[others], epochs=10
    )
    assert score < 0.05


def test_score_of_colour_images():
    rng = np.random.default_rng(0)
    labels, test_labels = rng.integers(0, 3, 240), rng.integers(0, 3, 90)

    def draw(labels):  # noise, brighter in the channel of the class
        colours = 60 * np.eye(3, dtype="uint8")[labels]
        return noise(len(labels), (8, 8, 3)) // 2 + colours[:, None, None]

    score = classifiers.classification_accuracy_score(
        draw(labels), labels, draw(test_labels), test_labels, epochs=15
    )
    assert score > 0.9


@pytest.mark.slow
def test_score_on_mnist(data_dir):
    data = kgen.data.load(str(data_dir / "mnist.npz"), validation_fraction=0, progress=False)
    score = classifiers.classification_accuracy_score(
        data.train.images[:2000],
        data.train.labels[:2000],
        data.test.images[:2000],
        data.test.labels[:2000],
    )
    assert score > 0.93


@pytest.mark.slow
def test_score_with_a_class_that_is_missing(digits):
    images, labels, test_images, test_labels = digits
    kept = labels != 9
    score = classifiers.classification_accuracy_score(
        images[kept], labels[kept], test_images, test_labels
    )
    share = np.mean(test_labels != 9)
    assert share - 0.15 < score <= share


@pytest.mark.parametrize(
    "change, message",
    [
        ({"labels": None}, r"needs labels of the generated.* Received: labels=None, test_labels=5"),
        ({"test_labels": None}, "Received: labels=6 labels, test_labels=None"),
        ({"labels": np.arange(5)}, r"labels must have shape \[6\].* received \[5\]"),
        ({"test_labels": np.arange(6)}, r"test_labels must have shape \[5\].* received \[6\]"),
        ({"labels": np.arange(6) - 1}, "labels must be 0 or more, received -1"),
        ({"labels": np.arange(6) / 2}, "labels must be integers.* received float64"),
        ({"num_classes": 4}, "Labels must be 0 to 3, the classes. Received: 5"),
        ({"images": noise(6, (8, 9, 1))}, r"one shape. Received: \(8, 9, 1\) and \(8, 8, 1\)"),
        ({"images": np.zeros((6, 8, 8, 1))}, "^images must be uint8.* received float64"),
        ({"test_images": noise(5, (8, 8))}, r"test_images must have shape \[N, H, W, C\]"),
    ],
)
def test_score_refuses(change, message):
    arguments = {
        "images": noise(6, (8, 8, 1)),
        "labels": np.arange(6),
        "test_images": noise(5, (8, 8, 1)),
        "test_labels": np.arange(5),
    }
    with pytest.raises(ValueError, match=message):
        classifiers.classification_accuracy_score(**{**arguments, **change})
