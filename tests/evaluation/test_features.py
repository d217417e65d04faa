import hashlib
import json
import os
import pickle
import shutil
import sys
import tarfile

import keras
import numpy as np
import pytest
from keras import layers, ops
from PIL import Image

import kgen
from kgen.evaluation import features
from kgen.layers import pretrained


def noise(n, shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype="uint8")


def a_model(seed=0, shape=(8, 8, 1), **names):
    """A Keras model to 5 features, whose layers have the names that Keras counts up."""
    initializer = keras.initializers.RandomNormal(seed=seed)
    image = keras.Input(shape)
    x = layers.Flatten()(image)
    x = layers.Dense(5, activation="tanh", kernel_initializer=initializer)(x)
    return keras.Model(image, x, **names)


class Mean:
    """An extractor that is no Keras model: the mean grey level, and how often it was asked."""

    name, sha256, dim, num_classes = "mean", "ab" * 32, 1, None

    def __init__(self):
        self.calls = 0

    def preprocess(self, images):
        return images / 255

    def __call__(self, images):
        self.calls += 1
        return self.preprocess(images).mean(axis=(1, 2, 3), keepdims=True)[:, 0, 0]


# The bundled ones ------------------------------------------------------------------------

BUNDLED = [
    ("lenet128", (28, 28, 1)),
    ("cifar_cnn", (32, 32, 3)),
    ("general_cnn", (12, 20, 4)),
    ("random_conv", (12, 16, 4)),
]


def accuracy(extractor, images, labels):
    found = features.extract(extractor, images, cache=False)
    return np.mean(extractor.probabilities(found).argmax(axis=1) == labels)


def test_lenet128_knows_digits(data_dir):
    data = kgen.data.load(str(data_dir / "mnist.npz"), validation_fraction=0, progress=False)
    assert accuracy(features.lenet128(), data.test.images, data.test.labels) >= 0.99


@pytest.mark.slow
def test_cifar_cnn_knows_its_classes(data_dir):
    """On 1,000 test images of CIFAR-10 (JPEG copy), a hundred of each class."""
    images, names = [], []
    with tarfile.open(data_dir / "cifar10-jpeg.tar.xz") as archive:
        for member in archive:
            split, *rest = member.name.split("/")
            if split == "test" and member.name.endswith("7.jpg"):
                images.append(np.asarray(Image.open(archive.extractfile(member))))
                names.append(rest[0])
    classes, labels = np.unique(names, return_inverse=True)
    assert len(classes) == 10 and len(images) == 1000
    assert accuracy(features.cifar_cnn(), np.stack(images), labels) >= 0.78


@pytest.mark.parametrize("name, shape", BUNDLED)
def test_bundled(name, shape):
    extractor = features.get(name, shape)
    images = noise(7, shape)
    found = extractor(images)
    assert (extractor.name, extractor.image_shape) == (name, shape)
    assert found.shape == (7, extractor.dim) and found.dtype == np.float32
    assert len(extractor.sha256) == 64 and extractor.sha256 == features.get(name, shape).sha256
    one_by_one = np.concatenate([extractor(image[None]) for image in images])
    scale = np.abs(found).max()
    np.testing.assert_allclose(found, one_by_one, rtol=1e-4, atol=1e-6 * scale)
    extracted = features.extract(extractor, images, cache=False, batch_size=3)
    np.testing.assert_allclose(found, extracted, rtol=1e-4, atol=1e-6 * scale)
    plain = np.repeat(np.array([0, 255], "uint8"), np.prod(shape)).reshape(2, *shape)
    assert np.isfinite(extractor(plain)).all()


@pytest.mark.parametrize("name, shape", BUNDLED[:2])
def test_probabilities_are_those_of_the_whole_network(name, shape):
    build = {"lenet128": pretrained.lenet, "cifar_cnn": pretrained.cifar_network}[name]
    network = build(shape, 10)
    with np.load(pretrained.WEIGHTS / f"{name}.npz") as stored:
        network.set_weights([stored[f"weight_{i}"] for i in range(len(stored.files))])
    images = noise(6, shape)
    expected = ops.convert_to_numpy(ops.softmax(network(images, training=False)))
    extractor = features.get(name, shape)
    found = extractor.probabilities(extractor(images))
    assert extractor.num_classes == 10
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("name, shape", BUNDLED)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_bundled_under_a_mixed_policy(name, shape, policy):
    images = noise(4, shape)
    expected = features.get(name, shape)(images)
    keras.config.set_dtype_policy(policy)
    try:
        found = features.get(name, shape)(images)
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name, shape", BUNDLED[:3])
def test_changed_weights(name, shape, tmp_path, monkeypatch):
    shutil.copytree(pretrained.WEIGHTS, tmp_path / "weights")
    monkeypatch.setattr(pretrained, "WEIGHTS", tmp_path / "weights")
    path = tmp_path / "weights" / f"{name}.npz"
    content = bytearray(path.read_bytes())
    assert len(content) <= 2e6
    expected = hashlib.sha256(content).hexdigest()
    assert features.get(name, shape).sha256 == expected
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        features.get(name, shape)
    for part in (str(path), expected, hashlib.sha256(content).hexdigest()):
        assert part in str(error.value)


#: Mean and deviation of the features of two images, as TensorFlow computed them.
FROZEN = {
    "lenet128": ([1.2409816, 0.33470592], [2.0936925, 0.590724]),
    "cifar_cnn": ([0.33726937, 0.28841543], [0.6191501, 0.6117279]),
    "general_cnn": ([0.6138821, 0.6776145], [0.6877338, 1.2877662]),
    "random_conv": ([0.21974036, 0.32168216], [0.1823205, 0.38211104]),
}


@pytest.mark.parametrize("name, shape", BUNDLED)
def test_features_stay_what_they_are(name, shape):
    """On whichever backend these tests run."""
    images = (np.arange(2 * np.prod(shape)) * 37 % 256).astype("uint8").reshape(2, *shape)
    images[1] //= 3
    found = features.get(name, shape)(images)
    means, deviations = FROZEN[name]
    np.testing.assert_allclose(found.mean(axis=1), means, rtol=1e-4)
    np.testing.assert_allclose(found.std(axis=1), deviations, rtol=1e-4)


#: sha256 of the weights for 1 and for 3 channels, frozen as those of the other extractors are.
RANDOM_CONV = {
    1: "3e92c2de6d9c9aa4d3a90b73ae615ee4c00a4ec0c1de49f25311e33426f4c97d",
    3: "c49dfddb4be5db6a566ed779aeafaacae2e46637222d7328c07b553aa445978a",
}


def test_random_conv_stays_what_it_is():
    """Scores on other weights would not compare with older reports."""
    assert features.random_conv((8, 8, 1)).sha256 == RANDOM_CONV[1]
    assert features.random_conv((64, 9, 1)).sha256 == RANDOM_CONV[1]
    assert features.random_conv((8, 8, 3)).sha256 == RANDOM_CONV[3]


def test_random_conv_tells_images_apart():
    images = noise(6, (8, 8, 1))
    images[3:] //= 2
    extractor = features.random_conv((8, 8, 1))
    found = extractor(images)
    assert found.shape == (6, 256) == (6, extractor.dim) and extractor.num_classes is None
    distances = np.linalg.norm(found[:, None] - found, axis=-1)
    bright, dark = distances[:3, :3], distances[3:, 3:]
    pairs = np.triu_indices(3, 1)
    assert min(bright[pairs].min(), dark[pairs].min()) > 0
    assert distances[:3, 3:].min() > max(bright.max(), dark.max())
    model = extractor.model
    for weight in model.get_weights():  # He et al., 2015: the variance is 2 / fan_in
        np.testing.assert_allclose(weight.std(), np.sqrt(2 / np.prod(weight.shape[:3])), rtol=0.1)


ON_A_BACKEND = """
import json, sys
if sys.argv[2] == "jax":
    sys.modules["tensorflow"] = None
import keras, numpy as np
from kgen.evaluation import classifiers, features
from kgen.layers import pretrained
assert keras.backend.backend() == sys.argv[2]
rng = np.random.default_rng(0)
found = {}
for name, shape in json.loads(sys.argv[3]):
    extractor = features.get(name, shape)
    images = rng.integers(0, 256, (20, *shape), dtype="uint8")
    found[name] = features.extract(extractor, images, cache_dir=sys.argv[1] + ".cache")
    found[name + "_sha256"] = extractor.sha256
labels = np.arange(20) % 2
images[labels == 1] //= 2
score = classifiers.classification_accuracy_score(images, labels, images, labels, epochs=30)
np.savez(sys.argv[1], score=score, **found)
"""


@pytest.mark.slow
def test_backends_agree(run_python, tmp_path):
    """The same features, on JAX without TensorFlow too."""
    pytest.importorskip("jax")
    found = {}
    for backend in ("tensorflow", "jax"):
        path = tmp_path / f"{backend}.npz"
        run_python(ON_A_BACKEND, path, backend, json.dumps(BUNDLED), backend=backend)
        found[backend] = np.load(path)
    one, other = found["tensorflow"], found["jax"]
    for name, _ in BUNDLED:
        scale = np.abs(one[name]).max()
        np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-6 * scale)
        assert one[f"{name}_sha256"] == other[f"{name}_sha256"]
    assert one["score"] > 0.9 and other["score"] > 0.9


# get -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape, name",
    [
        ((28, 28, 1), "lenet128"),
        ((32, 32, 3), "cifar_cnn"),
        ((28, 28, 3), "general_cnn"),
        ((8, 8, 1), "general_cnn"),
        ((64, 48, 4), "general_cnn"),
    ],
)
def test_auto(shape, name):
    extractor = features.get("auto", list(shape))
    assert extractor.name == name
    assert extractor(noise(2, shape)).shape == (2, extractor.dim)
    assert features.get(extractor, shape) is extractor


@pytest.mark.parametrize(
    "name, shape, message",
    [
        ("lenet", (28, 28, 1), "Unknown feature extractor 'lenet'.* Did you mean 'lenet128'"),
        ("lenet128", (8, 8, 1), "^lenet128 takes images of 28x28x1. Received: 8x8x1. Use general_"),
        ("cifar_cnn", (32, 32, 1), "^cifar_cnn takes images of 32x32x3. Received: 32x32x1"),
        ("random_conv", (7, 32, 3), "random_conv takes images of 8x8 or more. Received: 7x32x3"),
        ("random_conv", (16, 16, 2), "with 1, 3 or 4 channels"),
        ("inception:", (32, 32, 3), "inception needs the path of its weights"),
        ("inception", (32, 32, 3), "inception needs the path of its weights"),
        ("nowhere.keras", (32, 32, 3), "nowhere.keras"),
        (3, (32, 32, 3), "is a name, a Keras model or a callable with .*sha256.* Received: 3"),
        (len, (32, 32, 3), "callable with the attributes name, sha256, dim, num_classes"),
    ],
)
def test_get_refuses(name, shape, message):
    with pytest.raises(ValueError, match=message):
        features.get(name, shape)


# Keras models ----------------------------------------------------------------------------


def test_keras_model():
    model = a_model(name="mine")
    images = noise(10, (8, 8, 1))
    extractor = features.get(model, (8, 8, 1))
    assert (extractor.name, extractor.dim, extractor.num_classes) == ("mine", 5, None)
    expected = np.tanh(images.reshape(10, 64).astype("float32") @ model.get_weights()[0])
    found = features.extract(extractor, images, cache=False, batch_size=4)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)  # grey levels as they are
    scaled = features.KerasExtractor(model, "scaled", lambda images: images / np.float32(255))
    expected = np.tanh(images.reshape(10, 64) / np.float32(255) @ model.get_weights()[0])
    found = features.extract(scaled, images, cache=False)
    assert scaled.name == "scaled"
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_keras_file(tmp_path):
    model = a_model(name="mine")
    path = tmp_path / "mine.keras"
    model.save(path)
    images = noise(3, (8, 8, 1))
    for name in (path, str(path)):
        extractor = features.get(name, (8, 8, 1))
        assert extractor.sha256 == features.get(model, (8, 8, 1)).sha256
        np.testing.assert_allclose(
            extractor(images), features.get(model, (8, 8, 1))(images), rtol=1e-5, atol=1e-6
        )


def test_keras_hash():
    def sha256(model, preprocess=None, shape=(8, 8, 1), **options):
        return features.get(
            features.KerasExtractor(model, preprocess=preprocess, **options), shape
        ).sha256

    one = a_model()
    same = sha256(one)
    assert sha256(a_model()) == same  # though Keras has counted its names up
    assert sha256(one, lambda images: images / 255) == sha256(one, lambda x: x / 255)
    other_weights = a_model()
    other_weights.set_weights([weight + (weight == 0) for weight in one.get_weights()])
    other_layer = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(5)])
    other_layer.set_weights(one.get_weights())
    different = [
        same,
        sha256(other_weights),
        sha256(other_layer),
        sha256(one, lambda images: images / 255),
        sha256(one, lambda images: images / 127.5 - 1),
    ]
    assert len(set(different)) == len(different)
    assert sha256(one, lambda images: images / 255, sha256="cd" * 32) == "cd" * 32


def test_keras_model_with_classes():
    kernel, bias = np.random.default_rng(0).normal(size=(5, 3)), np.arange(3)
    extractor = features.KerasExtractor(a_model(), head=(kernel, bias))
    found = extractor(noise(4, (8, 8, 1)))
    expected = np.exp(found @ kernel + bias)
    expected /= expected.sum(axis=1, keepdims=True)
    assert extractor.num_classes == 3
    np.testing.assert_allclose(extractor.probabilities(found), expected, rtol=1e-5)


def test_preprocess_that_resizes():
    model = a_model()
    extractor = features.KerasExtractor(
        model, preprocess=lambda images: ops.image.resize(ops.cast(images, "float32"), (8, 8))
    )
    images = noise(3, (16, 16, 1))
    found = features.extract(extractor, images, cache=False)
    smaller = images.reshape(3, 8, 2, 8, 2).mean(axis=(2, 4)).reshape(3, 64)
    expected = np.tanh(smaller @ model.get_weights()[0])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def two_inputs():
    a, b = keras.Input((8, 8, 1)), keras.Input((8, 8, 1))
    return keras.Model([a, b], layers.Flatten()(a + b))


@pytest.mark.parametrize(
    "model, message",
    [
        (
            lambda: a_model(shape=(9, 9, 1), name="mine"),
            r"mine takes \[None, 9, 9, 1\]. Received: \[2, 8, 8, 1\] for 2 images of 8x8x1. Give",
        ),
        (
            lambda: a_model(shape=(64, 1), name="mine"),
            r"mine takes \[None, 64, 1\]. Received: \[2, 8",
        ),
        (
            lambda: keras.Sequential([layers.Dense(3)]),
            r"built Keras model with one output \[B, dim\]",
        ),
        (lambda: keras.Sequential([keras.Input((8, 8, 1)), layers.Dense(3)]), "output shape "),
        (two_inputs, "has one input. Received: .* with 2 inputs"),
        (lambda: kgen.models.VAE.from_preset("vae_tiny"), r"one output \[B, dim\]"),
    ],
)
def test_keras_models_that_do_not_fit(model, message):
    with pytest.raises(ValueError, match=message):
        features.get(model(), (8, 8, 1))


# extract and its cache -------------------------------------------------------------------


def test_extract(capsys):
    images, extractor = noise(10, (8, 8, 1)), Mean()
    found = features.extract(extractor, images, cache=False, batch_size=4, progress=True)
    assert extractor.calls == 3 and found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], images.mean(axis=(1, 2, 3)) / 255, rtol=1e-6)
    assert "Features (mean)" in capsys.readouterr().out


def test_cache(tmp_path):
    images, extractor = noise(10, (8, 8, 1)), Mean()
    expected = features.extract(extractor, images, cache_dir=tmp_path)
    assert extractor.calls == 1
    np.testing.assert_array_equal(
        features.extract(extractor, images, cache_dir=tmp_path, batch_size=3), expected
    )
    assert extractor.calls == 1 and len(list(tmp_path.iterdir())) == 1
    np.testing.assert_array_equal(np.load(*tmp_path.iterdir()), expected)

    changed = images.copy()
    changed[9, 7, 7, 0] ^= 1
    found = features.extract(extractor, changed, cache_dir=tmp_path)
    assert extractor.calls == 2
    np.testing.assert_array_equal((found != expected)[:, 0], np.arange(10) == 9)

    other = Mean()
    other.sha256 = "cd" * 32
    features.extract(other, images, cache_dir=tmp_path)
    features.extract(other, images.reshape(10, 4, 16, 1), cache_dir=tmp_path)
    features.extract(other, images[:9], cache_dir=tmp_path)
    assert other.calls == 3


def test_cache_of_a_memory_map(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "_BLOCK", 4)
    np.save(tmp_path / "images.npy", noise(10, (8, 8, 1)))
    mapped, extractor = np.load(tmp_path / "images.npy", mmap_mode="r"), Mean()
    features.extract(extractor, mapped, cache_dir=tmp_path / "cache")
    features.extract(extractor, np.array(mapped), cache_dir=tmp_path / "cache")
    strided = np.repeat(mapped, 2, axis=2)[:, :, ::2]
    features.extract(extractor, strided, cache_dir=tmp_path / "cache")
    assert extractor.calls == 1


def test_cache_is_told_apart_by_preprocess(tmp_path):
    model, images = a_model(), noise(4, (8, 8, 1))
    found = [
        features.extract(features.KerasExtractor(model, "x", f), images, cache_dir=tmp_path)
        for f in (None, lambda images: images / 255, lambda images: images / 999)
    ]
    assert not np.allclose(found[0], found[1]) and not np.allclose(found[1], found[2])


def test_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KGEN_CACHE_DIR", str(tmp_path))
    features.extract(Mean(), noise(3, (8, 8, 1)))
    (path,) = (tmp_path / "features").iterdir()
    assert path.suffix == ".npy"


DAMAGES = {
    "truncated": lambda content: content[:-40],
    "empty": lambda content: b"",
    "a bit of a feature": lambda content: content[:-40] + bytes([content[-40] ^ 1]) + content[-39:],
    "something else": lambda content: b"PK\x03\x04" + content[4:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_cache(damage, tmp_path):
    images, extractor = noise(10, (8, 8, 1)), Mean()
    expected = features.extract(extractor, images, cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    path.write_bytes(damage(content))
    with pytest.warns(UserWarning, match=f"{path.name} are damaged .* rebuilding them"):
        found = features.extract(extractor, images, cache_dir=tmp_path)
    np.testing.assert_array_equal(found, expected)
    assert extractor.calls == 2 and path.read_bytes() == content


def test_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    images, extractor = noise(10, (8, 8, 1)), Mean()
    with pytest.warns(UserWarning, match="Features are not kept: .*file") as warned:
        found = features.extract(extractor, images, cache_dir=tmp_path / "file")
    assert len(warned) == 1 and len(found) == 10
    assert (tmp_path / "file").read_text() == "in the way"


def test_cache_on_a_full_disk(tmp_path):
    resource = pytest.importorskip("resource")
    images, extractor = noise(10_000, (1, 1, 1)), Mean()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.warns(UserWarning, match="Features are not kept"):
            found = features.extract(extractor, images, cache_dir=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(found) == 10_000 and list(tmp_path.iterdir()) == []


def wrong(**changes):
    extractor = Mean()
    for name, value in changes.items():
        setattr(extractor, name, value)
    return extractor


def one_nan(images):
    found = images / 255
    found[1, 0, 0, 0] = np.nan
    return found


@pytest.mark.parametrize(
    "extractor, images, message",
    [
        (wrong(preprocess=one_nan), noise(3, (8, 8, 1)), "mean gives NaN .* for 1 images"),
        (
            wrong(preprocess=lambda x: x / 0.0),
            noise(3, (8, 8, 1)),
            "infinite features for 3 images",
        ),
        (wrong(dim=2), noise(3, (8, 8, 1)), r"must give features \[3, 2\]. Received: \[3, 1\]"),
        (Mean(), np.zeros((3, 8, 8, 1)), "images must be uint8.* received float64"),
        (Mean(), noise(3, (8, 8)), r"images must have shape \[N, H, W, C\]"),
        (Mean(), noise(0, (8, 8, 1)), "at least one image"),
        ("lenet128", noise(3, (8, 8, 1)), "lenet128 takes images of 28x28x1. Received: 8x8x1"),
    ],
)
def test_extract_refuses(extractor, images, message, tmp_path):
    with pytest.raises(ValueError, match=message), np.errstate(all="ignore"):
        features.extract(extractor, images, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


# Inception -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """A file with random weights of the network, and torch-fidelity's own network with them."""
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    folder = tmp_path_factory.mktemp("inception")
    names = ["2048", "logits_unbiased"]
    torch.save({}, folder / "none.pth")

    class Untrained(module.FeatureExtractorInceptionV3):
        def load_state_dict(self, state):
            pass

    torch.manual_seed(0)
    network = Untrained("random", names, str(folder / "none.pth"))
    for part in network.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight)
    torch.save(network.state_dict(), folder / "random.pth")
    peer = module.FeatureExtractorInceptionV3("peer", names, str(folder / "random.pth"))
    path = folder / "random.pth"
    return path, hashlib.sha256(path.read_bytes()).hexdigest(), peer


@pytest.mark.slow
def test_inception_against_torch_fidelity(inception):
    import torch

    path, sha256, peer = inception
    extractor = features.Inception(path, sha256)
    images = noise(2, (20, 24, 3))
    expected, logits = peer(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    found = extractor(images)
    assert found.shape == (2, 2048) == (2, extractor.dim) and found.dtype == np.float32
    assert np.abs(found[0] - found[1]).max() > 1e-2 * np.abs(found).max()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * np.abs(found).max())
    probabilities = extractor.probabilities(found)
    assert probabilities.shape == (2, 1008) == (2, extractor.num_classes)
    np.testing.assert_allclose(
        probabilities, torch.softmax(logits, dim=1).numpy(), rtol=1e-3, atol=1e-7
    )
    grey = images[..., :1]
    np.testing.assert_array_equal(extractor(grey), extractor(np.repeat(grey, 3, axis=3)))
    with pytest.raises(ValueError, match=r"images with 1 or 3 channels\. Received: 4"):
        features.get(extractor, (20, 24, 4))
    # Scores on other weights are no FID, and are not called one.
    assert extractor.name == f"inception-{sha256[:8]}" and extractor.sha256 == sha256


class Pickled:
    """A pickle that leaves a folder behind when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.slow
def test_inception_reads_no_unknown_pickle(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("torch_fidelity")
    weights, trace = tmp_path / "weights.pth", tmp_path / "trace"
    torch.save({"fc.weight": Pickled(trace)}, weights)
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    with pytest.raises(ValueError) as error:
        features.get(f"inception:{weights}", (32, 32, 3))
    for part in (str(weights), sha256, features.INCEPTION_SHA256):
        assert part in str(error.value)
    with pytest.raises(pickle.UnpicklingError):
        features.Inception(weights, sha256)
    assert not trace.exists()
    torch.load(weights, weights_only=False)
    assert trace.exists(), "the pickle of this test does nothing"


@pytest.mark.slow
def test_inception_without_its_file():
    pytest.importorskip("torch_fidelity")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        features.get("inception:nowhere.pth", (32, 32, 3))


def test_inception_without_torch_fidelity(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ImportError, match=r"pip install 'kgen\[inception\]'"):
        features.get(f"inception:{tmp_path / 'weights.pth'}", (32, 32, 3))
