import gzip
import os
import tarfile

import numpy as np
import pytest

import kgen.data

BLOCK_TENSORFLOW = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tensorflow_datasets"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
"""


def everything(data):
    splits = [split for split in (data.train, data.validation, data.test) if split is not None]
    images = np.concatenate([split.images for split in splits])
    labels = None
    if data.train.labels is not None:
        labels = np.concatenate([split.labels for split in splits])
    return images, labels


def test_digits():
    data = kgen.data.load()
    assert data.name == data.source == "digits" and data.image_shape == (8, 8, 1)
    assert (len(data.train), len(data.validation), len(data.test)) == (1437, 180, 180)
    assert data.num_classes == 10 and data.class_names == [str(i) for i in range(10)]
    images, labels = everything(data)
    assert images.min() == 0 and images.max() == 255 and set(labels) == set(range(10))
    again = kgen.data.load("digits")
    np.testing.assert_array_equal(data.test.images, again.test.images)
    assert data.fingerprint == again.fingerprint != kgen.data.load(seed=1).fingerprint
    # A class's mean image looks like the class: images and labels belong together.
    means = np.stack([images[labels == i].mean(0) for i in range(10)])
    distances = ((images[:, None].astype(float) - means) ** 2).sum((2, 3, 4))
    assert (distances.argmin(1) == labels).mean() > 0.85


def test_every_source_honours_image_shape():
    assert kgen.data.load("digits", (16, 12, 3)).train.images.shape == (1437, 16, 12, 3)


def test_horizontal_flip_is_for_training():
    data = kgen.data.load(horizontal_flip=True)
    assert data.horizontal_flip and data.train.horizontal_flip
    assert not data.validation.horizontal_flip and not data.test.horizontal_flip
    assert not kgen.data.load().train.horizontal_flip


@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
@pytest.mark.parametrize("column", [False, True])
def test_npz(tmp_path, random_images, channels, column):
    images = {
        name: random_images(20, 6, 5, *channels, seed=i)
        for i, name in enumerate(("train", "val", "test"))
    }
    labels = np.arange(20) % 4
    arrays = {f"x_{name}": array for name, array in images.items()}
    arrays |= {f"y_{name}": labels[:, None] if column else labels for name in images}
    np.savez_compressed(tmp_path / "some.npz", **arrays)
    data = kgen.data.load(tmp_path / "some.npz")
    assert data.name == "some" and data.image_shape == (6, 5, *(channels or (1,)))
    for split, name in ((data.train, "train"), (data.validation, "val"), (data.test, "test")):
        np.testing.assert_array_equal(split.images, images[name].reshape(split.images.shape))
        np.testing.assert_array_equal(split.labels, labels)
    assert data.num_classes == 4 and data.class_names is None
    resized = kgen.data.load(tmp_path / "some.npz", (4, 4, 1))
    assert resized.test.images.shape == (20, 4, 4, 1)


def test_npz_with_x_train_only(tmp_path, random_images):
    images = random_images(50, 8, 8)
    np.savez(tmp_path / "some.npz", x_train=images)
    data = kgen.data.load(str(tmp_path / "some.npz"))
    assert (len(data.train), len(data.validation), len(data.test)) == (40, 5, 5)
    assert data.train.labels is None and data.num_classes is None
    found = sorted(image.tobytes() for image in everything(data)[0])
    assert found == sorted(image.tobytes() for image in images)


IMAGES, LABELS = np.zeros((4, 8, 8, 1), np.uint8), np.arange(4)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, "has no array x_train, it has images; expected x_train"),
        ({"x_train": IMAGES / 255}, "x_train of .*npz must be uint8 .* received float64"),
        ({"x_train": IMAGES[0, 0]}, r"x_train of .* \[N, H, W, C\] .* received \[8, 1\]"),
        ({"x_train": IMAGES.transpose(0, 3, 1, 2)}, r"channels \(last\), received \[4, 1, 8, 8\]"),
        ({"x_train": IMAGES, "y_train": LABELS[:3]}, r"y_train of .* shape \[4\].*received \[3\]"),
        ({"x_train": IMAGES, "y_train": LABELS - 1}, "y_train of .* 0 or more, received -1"),
        ({"x_train": IMAGES, "y_train": LABELS * 1.0}, "y_train .* integers.*received float64"),
        ({"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES}, "y_test is missing"),
        ({"x_train": IMAGES, "x_test": IMAGES[:, :4]}, "differ in size: .* 8x8 .* 4x8; pass image"),
        ({"x_train": np.array([{}, {}])}, "x_train cannot be read"),
    ],
)
def test_npz_says_what_is_wrong(tmp_path, arrays, message):
    np.savez(tmp_path / "some.npz", **arrays)
    with pytest.raises(ValueError, match=message) as raised:
        kgen.data.load(tmp_path / "some.npz", validation_fraction=0, test_fraction=0)
    assert "\n" not in str(raised.value)


def test_npz_that_is_cut_off(tmp_path):
    np.savez(tmp_path / "some.npz", x_train=IMAGES)
    content = (tmp_path / "some.npz").read_bytes()
    (tmp_path / "some.npz").write_bytes(content[:-50])
    with pytest.raises(ValueError, match=r"some.npz is not a .npz file, or is cut off"):
        kgen.data.load(tmp_path / "some.npz")


def test_arrays(random_images):
    images, labels = random_images(30, 8, 8, 3), np.arange(30) % 5
    data = kgen.data.load((images, labels))
    assert data.name == "array" and data.source == "array uint8 [30, 8, 8, 3]"
    number = {image.tobytes(): i for i, image in enumerate(images)}
    for image, label in zip(*everything(data), strict=True):
        assert labels[number[image.tobytes()]] == label
    assert kgen.data.load(images[..., 0], (4, 4, 1)).image_shape == (4, 4, 1)
    with pytest.raises(ValueError, match=r"images must be uint8 .* received float32"):
        kgen.data.load(images.astype("float32"))
    with pytest.raises(ValueError, match=r"labels must have shape \[30\].* received \[29\]"):
        kgen.data.load((images, labels[1:]))


def test_fingerprint_changes_with_one_pixel_one_label_and_the_shape(random_images):
    images, labels = random_images(30, 8, 8, 3), np.arange(30) % 5
    first = kgen.data.load((images, labels)).fingerprint
    assert len(first) == 64 and kgen.data.load((images.copy(), labels)).fingerprint == first
    changed = images.copy()
    changed[3, 2, 1, 0] ^= 1
    relabelled = labels.copy()
    relabelled[3] ^= 1
    others = {
        kgen.data.load((changed, labels)).fingerprint,
        kgen.data.load((images, relabelled)).fingerprint,
        kgen.data.load(images).fingerprint,
        kgen.data.load((images, labels), (4, 4, 3)).fingerprint,
        kgen.data.load((images, labels), seed=1).fingerprint,
    }
    assert len(others) == 5 and first not in others


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("labelled", [False, True])
def test_tf_dataset(random_images, batched, labelled):
    tf = pytest.importorskip("tensorflow")
    images, labels = random_images(23, 6, 5, 3), np.arange(23) % 5
    dataset = tf.data.Dataset.from_tensor_slices((images, labels) if labelled else images)
    dataset = dataset.filter(lambda *_: True)  # of unknown length
    data = kgen.data.load(dataset.batch(4) if batched else dataset)
    assert (len(data.train), len(data.validation), len(data.test)) == (19, 2, 2)
    number = {image.tobytes(): i for i, image in enumerate(images)}
    found, found_labels = everything(data)
    positions = [number[image.tobytes()] for image in found]
    assert sorted(positions) == list(range(23))
    if labelled:
        assert found_labels.tolist() == labels[positions].tolist() and data.num_classes == 5
    else:
        assert found_labels is None
    assert kgen.data.load(dataset, (8, 8, 1)).image_shape == (8, 8, 1)


def test_tf_dataset_says_what_is_wrong(random_images):
    tf = pytest.importorskip("tensorflow")
    images = random_images(8, 6, 5, 3)
    dataset = tf.data.Dataset.from_tensor_slices(images)
    with pytest.raises(ValueError, match=r"infinite; leave out its repeat"):
        kgen.data.load(dataset.repeat())
    with pytest.raises(ValueError, match=r"must be uint8 .* received float32"):
        kgen.data.load(dataset.map(lambda image: tf.cast(image, "float32")))
    with pytest.raises(ValueError, match=r"must be images \[H, W, C\] or \(image, label\)"):
        kgen.data.load(dataset.map(lambda image: {"image": image}))
    with pytest.raises(ValueError, match="is empty"):
        kgen.data.load(dataset.take(0))


@pytest.fixture
def tfds_folder(tmp_path, random_images):
    """Datasets as tensorflow-datasets itself writes them: `tiny`, and `sizes` of mixed sizes."""
    tf = pytest.importorskip("tensorflow")
    tfds = pytest.importorskip("tensorflow_datasets")
    images = random_images(36, 8, 10, 3)

    def write(name, shape, cut, splits):
        def examples(rows):
            return tf.data.Dataset.from_generator(
                lambda: ({"image": cut(i), "label": i % 3} for i in rows),
                output_signature={
                    "image": tf.TensorSpec(shape, tf.uint8),
                    "label": tf.TensorSpec((), tf.int64),
                },
            )

        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version="1.0.0",
            data_dir=tmp_path / "tfds",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=shape),
                    "label": tfds.features.ClassLabel(names=["ant", "bee", "cow"]),
                }
            ),
            split_datasets={split: examples(rows) for split, rows in splits.items()},
        )

    splits = {"train": range(30), "test": range(30, 36)}
    write("tiny", (8, 10, 3), lambda i: images[i], splits)
    write("sizes", (None, None, 3), lambda i: images[i, : 4 + i % 4], splits)
    return tmp_path / "tfds", images


def test_tfds(tfds_folder):
    folder, images = tfds_folder
    data = kgen.data.load("tfds:tiny", data_dir=folder)
    assert data.name == "tiny" and data.source == "tfds:tiny"
    assert data.image_shape == (8, 10, 3) and data.class_names == ["ant", "bee", "cow"]
    assert (len(data.train), len(data.validation), len(data.test)) == (27, 3, 6)
    number = {image.tobytes(): i for i, image in enumerate(images)}
    assert {number[image.tobytes()] for image in data.test.images} == set(range(30, 36))
    found, labels = everything(data)
    assert [number[image.tobytes()] % 3 for image in found] == labels.tolist()
    again = kgen.data.load("tfds:tiny", data_dir=folder)
    assert isinstance(again.train.images, np.memmap) and again.fingerprint == data.fingerprint

    resized = kgen.data.load("tfds:sizes", (8, 8, 1), data_dir=folder)
    assert resized.train.images.shape == (27, 8, 8, 1)
    with pytest.raises(ValueError, match="differ in size"):
        kgen.data.load("tfds:sizes", data_dir=folder)


def test_unknown_tfds_name(tfds_folder):
    with pytest.raises(ValueError, match="did you mean 'tfds:mnist'"):
        kgen.data.load("tfds:mnsit", data_dir=tfds_folder[0])


@pytest.mark.slow
def test_keras_datasets(tmp_path, random_images, run_python):
    """One from files where Keras keeps its downloads, and one that cannot be downloaded."""
    folder = tmp_path / "keras" / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    for part, count in (("train", 40), ("t10k", 7)):
        images = random_images(count, 28, 28).tobytes()
        labels = (np.arange(count) % 10).astype(np.uint8).tobytes()
        with gzip.open(folder / f"{part}-images-idx3-ubyte.gz", "wb") as file:
            file.write(bytes(16) + images)
        with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(bytes(8) + labels)
    code = """
import kgen.data
data = kgen.data.load("keras:fashion_mnist")
print(data.name, len(data.train), len(data.validation), len(data.test), data.image_shape)
print(data.class_names[9], data.test.labels[:3])
try:
    kgen.data.load("keras:mnist")
except OSError as error:
    print(error)
"""
    # A proxy that refuses every connection stands for a missing network.
    environment = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    environment["KERAS_HOME"] = str(tmp_path / "keras")
    output = run_python(code, env=environment).stdout.splitlines()
    assert output[:2] == ["fashion_mnist 36 4 7 (28, 28, 1)", "Ankle boot [0 1 2]"]
    message = output[-1]
    assert message.startswith("Keras could not download mnist (") and ".npz" in message


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("digit", ValueError, "Unknown source 'digit'; did you mean 'digits'?"),
        ("cifar-10", ValueError, "Unknown source 'cifar-10'; did you mean 'keras:cifar10'?"),
        ("quagga", ValueError, "Unknown source 'quagga'. Known: digits, <file>.npz"),
        ("keras:mnits", ValueError, "'keras:mnits'; did you mean 'keras:mnist'?"),
        ("missing.npz", FileNotFoundError, "missing.npz does not exist; expected"),
        ("some/where", FileNotFoundError, "some/where does not exist; expected"),
        (3, ValueError, "source must be a name, a path, .* received int"),
    ],
)
def test_unknown_sources(source, error, message):
    with pytest.raises(error, match=message.replace("?", r"\?").replace("'.", r"'\.")):
        kgen.data.load(source)


def test_a_file_that_is_no_source(tmp_path):
    (tmp_path / "data.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"data.csv is a file; expected a .npz file or a folder"):
        kgen.data.load(tmp_path / "data.csv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_shape": (8, 8)}, r"image_shape must be \(height, width, channels\).*=\(8, 8\)"),
        ({"image_shape": (8, 8, 2)}, r"1, 3 or 4 channels. Received: .*\(8, 8, 2\)"),
        ({"image_shape": (0, 8, 1)}, "image_shape must be"),
        ({"image_shape": 32}, "image_shape must be .* Received: image_shape=32"),
        ({"resize": "fit"}, "Unknown resize 'fit'.* Known: crop, pad, stretch"),
        ({"interpolation": "nearst"}, "Unknown interpolation 'nearst'. Did you mean 'nearest'"),
        ({"max_pixels": 0}, "max_pixels must be a positive int. Received: max_pixels=0"),
        ({"background": "whiet"}, "background must be a colour .* received 'whiet'"),
        ({"validation_fraction": 1.0}, "validation_fraction must be .* received 1.0"),
        ({"test_fraction": -0.1}, "test_fraction must be .* received -0.1"),
        ({"validation_fraction": 0.5, "test_fraction": 0.5}, "must be less than 1, received 0.5"),
    ],
)
def test_options_that_mean_nothing(options, message):
    with pytest.raises(ValueError, match=message):
        kgen.data.load("digits", **options)


@pytest.mark.parametrize("label", [2**31, 2**32, 2**63])
def test_labels_that_int32_does_not_hold_are_refused(tmp_path, random_images, label):
    images, labels = random_images(20, 8, 8), np.full(20, label, "uint64")
    np.savez(tmp_path / "some.npz", x_train=images, y_train=labels)
    for source in ((images, labels), tmp_path / "some.npz"):
        with pytest.raises(ValueError, match=rf"must be less than 2\*\*31, received {label}"):
            kgen.data.load(source)
    with pytest.raises(ValueError, match="labels must be less than"):
        kgen.data.Split(images[..., None], labels)


def test_fractions_of_zero_leave_the_splits_out():
    data = kgen.data.load("digits", validation_fraction=0, test_fraction=0)
    assert len(data.train) == 1797 and data.validation is None and data.test is None


def test_sources_are_described():
    assert {"digits", "tfds:<name>", "keras:<name>"} <= set(kgen.data.SOURCES)
    assert all("\n" not in line for line in kgen.data.SOURCES.values())


def test_without_tensorflow_on_jax(tmp_path, make_folder, random_images, run_python):
    pytest.importorskip("jax")
    np.savez(tmp_path / "some.npz", x_train=random_images(20, 8, 8), y_train=np.arange(20) % 2)
    folder = make_folder({f"{i}.png": image for i, image in enumerate(random_images(20, 8, 8, 3))})
    code = f"""
{BLOCK_TENSORFLOW}
import keras
import kgen.data

class Model(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)
    def call(self, images):
        return self.dense(keras.ops.cast(images[:, 0, 0], "float32"))

for source in ("digits", *sys.argv[1:]):
    data = kgen.data.load(source)
    print(data.name, data.train)
    model = Model()
    model.compile("sgd", None if data.train.labels is None else "mse")
    if data.train.labels is not None:
        history = model.fit(data.train.batches(4), shuffle=False, epochs=2, verbose=0)
        assert len(history.history["loss"]) == 2
assert "tensorflow" not in sys.modules
try:
    kgen.data.load("tfds:mnist")
except ValueError as error:
    print(error)
"""
    lines = run_python(code, tmp_path / "some.npz", folder, backend="jax").stdout.splitlines()
    assert lines == [
        "digits Split(images=uint8 [1437, 8, 8, 1], labels=int32 [1437])",
        "some Split(images=uint8 [16, 8, 8, 1], labels=int32 [16])",
        "pictures Split(images=uint8 [16, 8, 8, 3], labels=None)",
        "Source 'tfds:mnist' needs tensorflow and tensorflow-datasets (tensorflow is blocked).",
    ]


def test_loading_imports_neither_keras_nor_tensorflow(make_folder, random_images, run_python):
    folder = make_folder({f"{i}.png": image for i, image in enumerate(random_images(20, 8, 8, 3))})
    code = """
import sys
import kgen.data
kgen.data.load(sys.argv[1])
print([name for name in ("keras", "tensorflow", "jax", "sklearn") if name in sys.modules])
"""
    assert run_python(code, folder).stdout.strip() == "[]"


def test_mnist(data_dir):
    data = kgen.data.load(data_dir / "mnist.npz")
    assert (len(data.train), len(data.validation), len(data.test)) == (54000, 6000, 10000)
    assert data.image_shape == (28, 28, 1) and data.num_classes == 10
    with np.load(data_dir / "mnist.npz") as file:
        np.testing.assert_array_equal(data.test.images[..., 0], file["x_test"])
        np.testing.assert_array_equal(data.test.labels, file["y_test"])
        np.testing.assert_array_equal(
            np.bincount(everything(data)[1]), np.bincount(np.r_[file["y_train"], file["y_test"]])
        )


@pytest.mark.slow
def test_cifar10_folder(data_dir, tmp_path):
    with tarfile.open(data_dir / "cifar10-jpeg.tar.xz") as file:
        file.extractall(tmp_path / "cifar10", filter="data")
    data = kgen.data.load(tmp_path / "cifar10", progress=False)
    assert data.image_shape == (32, 32, 3) and data.num_classes == 10
    assert data.class_names[:3] == ["airplane", "automobile", "bird"] and data.skipped == []
    assert (len(data.train), len(data.validation), len(data.test)) == (45000, 5000, 10000)
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    means = np.array(data.train.images[::10]).mean((0, 1, 2))
    np.testing.assert_allclose(means, (125.3, 123.0, 113.9), atol=2)  # CIFAR-10's well known means
    assert len(os.listdir(tmp_path / "kgen-cache" / "data")) == 1
