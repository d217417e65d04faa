"""Feature extractors: what images are compared by.

Scores on different features do not compare, so a score carries its extractor's name
(`FD-lenet128`), and a report the extractor's hash. None of the bundled ones gives an FID:
that name belongs to the Inception network of 2015, which `inception` is.
"""

import copy
import hashlib
import importlib.util
import io
import json
import pathlib
import sys
import typing
import warnings

import keras
import numpy as np
from keras import layers, ops

from kgen import files, random
from kgen.checks import check_image_shape, unknown_name
from kgen.data import cache as data_cache
from kgen.data.splits import check_images
from kgen.evaluation import classifiers
from kgen.generation import track
from kgen.layers import pretrained

#: sha256 of weights-inception-2015-12-05-6726825d.pth, as torch-fidelity distributes it.
#: pytorch-fid has the same file under the name pt_inception-2015-12-05-6726825d.pth.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

BUNDLED = ("lenet128", "cifar_cnn", "general_cnn", "random_conv")

_BLOCK = 4096  # images to hash at a time


class FeatureExtractor(typing.Protocol):
    """What a feature extractor is.

    Attributes:
        name: String, part of the name of every score.
        sha256: String, in hexadecimal, of the weights and of whatever else decides the
            features: equal hashes give equal scores.
        dim: Int, number of features.
        num_classes: Int, or `None` for an extractor without a classifier.
    """

    name: str
    sha256: str
    dim: int
    num_classes: int | None

    def preprocess(self, images):
        """uint8 `[N, H, W, C]` to what the network takes."""

    def __call__(self, images):
        """uint8 `[N, H, W, C]` to float32 features `[N, dim]`, NumPy."""

    def probabilities(self, features):
        """float32 features `[N, dim]` to probabilities `[N, num_classes]`, NumPy."""


class KerasExtractor:
    """A Keras model as a feature extractor.

    Args:
        model: Keras model with one input, to `[B, dim]`; else a `ValueError`.
        name: String; the model's own name by default.
        preprocess: Callable from uint8 images `[N, H, W, C]` to what the model takes;
            `None` hands it the grey levels 0 to 255 as they are.
        head: Tuple of arrays `(kernel, bias)`, `[dim, num_classes]` and `[num_classes]`,
            from features to logits, or `None`.
        image_shape: Tuple `(H, W, C)` of the only images it takes, or `None` for any.
        sha256: String; by default the hash of the model's configuration and weights and,
            once the shape of the images is known, of what `preprocess` makes of some.

    Example:

    >>> extractor = KerasExtractor(my_model, "mine", lambda images: images / 255.0)
    >>> kgen.evaluation.evaluate(model, data, features=extractor)
    """

    def __init__(self, model, name=None, preprocess=None, head=None, image_shape=None, sha256=None):
        shape = getattr(model, "output_shape", None)
        if not isinstance(shape, tuple) or len(shape) != 2 or shape[1] is None:
            raise ValueError(
                "A feature extractor is a built Keras model with one output [B, dim]. Received: "
                f"{getattr(model, 'name', model)} with output shape {shape}"
            )
        if len(model.inputs) != 1:
            raise ValueError(
                f"A feature extractor has one input. Received: {model.name} with "
                f"{len(model.inputs)} inputs"
            )
        self.model = model
        self.name = name or model.name
        self.dim = shape[1]
        self.num_classes = None if head is None else len(head[1])
        self.head = head
        self.image_shape = image_shape
        self.sha256 = sha256 or _hash_of(model)
        self._sha256_is_final = sha256 is not None or preprocess is None
        self._preprocess = preprocess
        self._forward = classifiers.forward(model)

    def for_images(self, image_shape):
        """This extractor for images of one shape, `(H, W, C)`; `ValueError` if it takes none."""
        if self.image_shape is not None:
            if self.image_shape != image_shape:
                raise ValueError(
                    f"{self.name} takes images of {_sides(self.image_shape)}. Received: "
                    f"{_sides(image_shape)}. Use general_cnn."
                )
            return self
        grey_levels = np.arange(2 * np.prod(image_shape)) * 37 % 256  # all of them, in disorder
        images = grey_levels.astype("uint8").reshape(2, *image_shape)
        given = ops.convert_to_numpy(self.preprocess(images))
        takes = self.model.inputs[0].shape
        if len(given.shape) != len(takes) or any(
            side not in (None, found) for side, found in zip(takes, given.shape, strict=True)
        ):
            raise ValueError(
                f"{self.name} takes {list(takes)}. Received: {list(given.shape)} for 2 images of "
                f"{_sides(image_shape)}. Give it a preprocess that fits, or use general_cnn."
            )
        found = copy.copy(self)
        found.image_shape = image_shape
        if not self._sha256_is_final:
            digest = hashlib.sha256(self.sha256.encode())
            digest.update(np.ascontiguousarray(given, "float32"))
            found.sha256 = digest.hexdigest()
        return found

    def preprocess(self, images):
        return images if self._preprocess is None else self._preprocess(images)

    def __call__(self, images):
        return self._forward(self.preprocess(images)).astype("float32", copy=False)

    def probabilities(self, features):
        return _softmax(features @ self.head[0] + self.head[1])


class Inception:
    """The Inception network of 2015 whose features FID is defined on (Heusel et al., 2017).

    It is torch-fidelity's port of the graph, which must be installed, with the resizing of
    TensorFlow 1 to 299x299 inside. Keras's InceptionV3 is another network and gives other
    scores. It runs on the CPU, in float32.

    Args:
        weights: Path of `weights-inception-2015-12-05-6726825d.pth`.
        sha256: String, the hash that the file must have, else a `ValueError`. With the weights
            of another network the name is no longer `inception-2015`: its scores are no FID.
    """

    dim = 2048

    def __init__(self, weights, sha256=INCEPTION_SHA256):
        if importlib.util.find_spec("torch_fidelity") is None:
            raise ImportError(
                "The features of FID need torch-fidelity: pip install 'kgen[inception]'"
            )
        # A pickle can do anything: it is checked, from memory, before anything reads it.
        content = io.BytesIO(pretrained.read_checked(pathlib.Path(weights), sha256))
        # Triton, which a torch for GPUs brings, crashes where TensorFlow was imported before
        # it (tensorflow/tensorflow#124205: two LLVMs); torch takes a None for "not there".
        sys.modules.setdefault("triton", None)
        import torch
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        if sha256 != INCEPTION_SHA256:  # torch-fidelity itself would run what lies in the file
            state = torch.load(content, map_location="cpu", weights_only=True)
            content = io.BytesIO()
            torch.save(state, content)
        content.seek(0)
        self.sha256 = sha256
        self.name = "inception-2015" if sha256 == INCEPTION_SHA256 else f"inception-{sha256[:8]}"
        self._network = FeatureExtractorInceptionV3(
            self.name, ["2048"], feature_extractor_weights_path=content
        )
        self._kernel = self._network.fc.weight.numpy().T  # without its bias, as in IS
        self.num_classes = self._kernel.shape[1]

    def for_images(self, image_shape):
        """This extractor; `ValueError` if the images, `(H, W, C)`, have 4 channels."""
        if image_shape[-1] == 4:
            raise ValueError(
                f"{self.name} takes images with 1 or 3 channels. Received: 4. Load the data with "
                "image_shape=(H, W, 3)."
            )
        return self

    def preprocess(self, images):
        """uint8 `[N, H, W, 1 or 3]` to a torch tensor `[N, 3, H, W]`; grey is repeated."""
        import torch

        self.for_images(images.shape[1:])
        images = np.broadcast_to(images, (*images.shape[:3], 3))
        return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))

    def __call__(self, images):
        import torch

        with torch.inference_mode():
            batches = self.preprocess(images).split(64)
            return np.concatenate([self._network(batch)[0].numpy() for batch in batches])

    def probabilities(self, features):
        return _softmax(features @ self._kernel)


def lenet128():
    """Features of a LeNet trained on MNIST: 28x28 grey, 128 features, 10 classes."""
    return _bundled("lenet128", pretrained.lenet, (28, 28, 1), 10)


def cifar_cnn():
    """Features of a small network trained on CIFAR-10 (JPEG copy): 32x32 RGB, 128 features,
    10 classes."""
    return _bundled("cifar_cnn", pretrained.cifar_network, (32, 32, 3), 10)


def general_cnn():
    """Features of a small network for images of any size, grey, RGB or RGBA: 128 features.

    It was trained to tell the classes of CIFAR-10 (JPEG copy), MNIST and emoji, and how strongly
    images were blurred, made noisy, recoloured, mixed or cut to pieces. It has no classifier for
    other images than these. Sides over 96 pixels are made smaller for it.
    """
    model = pretrained.general_network()
    pretrained.load_weights(model, "general_cnn")
    sha256 = pretrained.SHA256["general_cnn"]
    return KerasExtractor(model, "general_cnn", classifiers.for_general_network, sha256=sha256)


def random_conv(image_shape):
    """A `KerasExtractor` of a convolutional network with random weights, for any images.

    Random features tell distributions apart, but do not weigh what a person would, and they
    see colours where alpha hides them: `general_cnn` is better for most. There are 256, the
    means over the positions of three layers. Sides are 8 or more.
    """
    image_shape = check_image_shape(image_shape)
    if min(image_shape[:2]) < 8:
        raise ValueError(
            f"random_conv takes images of 8x8 or more. Received: {_sides(image_shape)}"
        )
    filters = (32, 96, 128)
    with pretrained.computing_in_float32():
        image = keras.Input(image_shape, dtype="uint8", name="image")
        x = ops.cast(image, "float32") * (1 / 127.5) - 1
        means = []
        for count in filters:
            x = layers.Conv2D(count, 3, 2, "same", use_bias=False, activation="relu")(x)
            means.append(layers.GlobalAveragePooling2D()(x))
        model = keras.Model(image, layers.Concatenate()(means), name="random_conv")
    digest = hashlib.sha256()
    for i, weight in enumerate(model.weights):
        # From kgen's own counter-based noise: the same on every backend and in ten years.
        kernel = ops.convert_to_numpy(random.normal(np.array([i], "int32"), weight.shape))[0]
        kernel *= np.float32(np.sqrt(2 / np.prod(weight.shape[:-1])))  # He et al., 2015
        weight.assign(kernel)
        digest.update(kernel.tobytes())
    return KerasExtractor(model, "random_conv", image_shape=image_shape, sha256=digest.hexdigest())


def get(features, image_shape):
    """The `FeatureExtractor` that `features` means, for images of shape `(H, W, C)`.

    That is `"auto"` (`lenet128` for 28x28 grey images, `cifar_cnn` for 32x32 RGB, else
    `general_cnn`), one of these names, `"inception:PATH"` with the path of the weights, the
    path of a `.keras` file, a Keras model, or any object with the methods of
    `FeatureExtractor`. A `ValueError` where there is none such, it does not take such images,
    or its weights have another hash than they should.
    """
    image_shape = tuple(image_shape)
    if isinstance(features, str | pathlib.Path):
        extractor = _named(str(features), image_shape)
    elif isinstance(features, keras.Model):
        extractor = KerasExtractor(features)
    else:
        extractor = features
        attributes = FeatureExtractor.__annotations__
        if not callable(extractor) or not all(hasattr(extractor, name) for name in attributes):
            raise ValueError(
                f"A feature extractor is a name, a Keras model or a callable with the attributes "
                f"{', '.join(attributes)}. Received: {extractor!r}"
            )
    if hasattr(extractor, "for_images"):
        extractor = extractor.for_images(image_shape)
    return extractor


def extract(extractor, images, *, cache=True, cache_dir=None, batch_size=256, progress=False):
    """Features of uint8 images `[N, H, W, C]`, finite float32 `[N, dim]`.

    They are kept on disk by the hash of the images' pixels, so that those of real images are
    computed once; not if `cache` is false, and in kgen's cache if `cache_dir` is `None`. The
    images may be memory-mapped. `extractor` is a `FeatureExtractor`, or what `get` makes one of.
    A `ValueError` where it does not take such images, or gives NaN or infinity.
    """
    check_images(images, "images")
    extractor = get(extractor, images.shape[1:])
    if not cache:
        return _extract(extractor, images, batch_size, progress)
    folder = pathlib.Path(cache_dir or data_cache.default_folder() / "features")
    path = folder / f"{_key(extractor, images)}.npy"
    try:
        return _read(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        warnings.warn(f"Features in {path} are damaged ({error}): rebuilding them.", stacklevel=2)
    found = _extract(extractor, images, batch_size, progress)
    try:
        _write(path, found)
    except OSError as error:
        warnings.warn(f"Features are not kept: {path}: {error.strerror}.", stacklevel=2)
    return found


def _extract(extractor, images, batch_size, progress):
    starts = range(0, len(images), batch_size)
    parts = [
        extractor(np.asarray(images[start : start + batch_size]))
        for start in track(starts, f"Features ({extractor.name})", progress)
    ]
    found = np.concatenate(parts).astype("float32", copy=False)
    if found.shape != (len(images), extractor.dim):
        raise ValueError(
            f"{extractor.name} must give features [{len(images)}, {extractor.dim}]. Received: "
            f"{list(found.shape)}"
        )
    wrong = np.count_nonzero(~np.isfinite(found).all(axis=1))
    if wrong:
        raise ValueError(f"{extractor.name} gives NaN or infinite features for {wrong} images.")
    return found


# A file of the cache is a .npy file with its own sha256 behind it, which NumPy ignores.


def _read(path):
    content = path.read_bytes()
    array, digest = content[:-32], content[-32:]
    if hashlib.sha256(array).digest() != digest:
        raise ValueError("it has changed")
    return np.load(io.BytesIO(array))


def _write(path, features):
    array = io.BytesIO()
    np.save(array, features)
    with files.replacing(path) as temporary:
        temporary.write_bytes(array.getvalue() + hashlib.sha256(array.getvalue()).digest())


def _key(extractor, images):
    """A hash of everything that the features depend on."""
    digest = hashlib.sha256()
    about = [2, extractor.name, extractor.sha256, keras.backend.backend(), list(images.shape)]
    digest.update(json.dumps(about).encode())
    for start in range(0, len(images), _BLOCK):
        digest.update(np.ascontiguousarray(images[start : start + _BLOCK]))
    return digest.hexdigest()


def _named(name, image_shape):
    if name == "auto":
        name = {(28, 28, 1): "lenet128", (32, 32, 3): "cifar_cnn"}.get(image_shape, "general_cnn")
    if name == "lenet128":
        return lenet128()
    if name == "cifar_cnn":
        return cifar_cnn()
    if name == "general_cnn":
        return general_cnn()
    if name == "random_conv":
        return random_conv(image_shape)
    kind, _, path = name.partition(":")
    if kind == "inception":
        if not path:
            raise ValueError(
                "inception needs the path of its weights, "
                "weights-inception-2015-12-05-6726825d.pth: inception:PATH"
            )
        return Inception(path)
    if name.endswith(".keras"):
        return KerasExtractor(keras.saving.load_model(name, compile=False))
    known = ("auto", *BUNDLED, "inception:WEIGHTS", "a .keras file")
    raise ValueError(unknown_name("feature extractor", name, known))


def _bundled(name, build, image_shape, num_classes):
    network = build(image_shape, num_classes)
    pretrained.load_weights(network, name)
    with pretrained.computing_in_float32():
        model = keras.Model(network.input, network.get_layer("features").output)
    head = tuple(network.get_layer("logits").get_weights())
    sha256 = pretrained.SHA256[name]
    return KerasExtractor(model, name, head=head, image_shape=image_shape, sha256=sha256)


def _hash_of(model):
    # Names that Keras counts up, as in "dense_3", say nothing: layers are numbered instead.
    names = {layer.name: f"layer {i}" for i, layer in enumerate(model._flatten_layers())}
    config = keras.tree.map_structure(
        lambda value: names.get(value, value) if isinstance(value, str) else value,
        model.get_config(),
    )
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight))
    return digest.hexdigest()


def _softmax(logits):
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def _sides(image_shape):
    return "x".join(map(str, image_shape))
