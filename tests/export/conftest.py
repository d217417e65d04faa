import hashlib

import keras
import numpy as np
import pytest
import yaml
from keras import ops

from kgen import random
from kgen.endpoint import Endpoint, TensorSpec, image_spec, label_spec, seed_spec

IMAGE_SHAPE = (8, 12, 3)
NUM_CLASSES = 3
LATENT_DIM = 8


def pytest_configure(config):
    config.addinivalue_line("markers", "any_backend: export's tests that also run on JAX")


def pytest_collection_modifyitems(items):
    if keras.backend.backend() == "tensorflow":
        return
    skip = pytest.mark.skip(reason="export runs on the TensorFlow backend")
    for item in items:
        if "/tests/export/" in item.path.as_posix() and not item.get_closest_marker("any_backend"):
            item.add_marker(skip)


@keras.saving.register_keras_serializable(package="tests")
class Painter(keras.Model):
    """A small generator with a loop, a class condition, exact GELU and four endpoints."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.image_shape, self.num_classes = IMAGE_SHAPE, NUM_CLASSES
        height, width, channels = IMAGE_SHAPE
        layers = keras.layers
        self.classes = layers.Embedding(NUM_CLASSES, LATENT_DIM)
        self.refine = layers.Dense(LATENT_DIM, activation="gelu")
        self.decoder = keras.Sequential(
            [
                layers.Dense(height * width // 4 * 8, activation="gelu"),
                layers.Reshape((height // 2, width // 2, 8)),
                layers.Conv2DTranspose(channels, 4, 2, "same", activation="sigmoid"),
            ]
        )
        self.encoder = keras.Sequential(
            [layers.Conv2D(8, 3, 2, "same"), layers.Flatten(), layers.Dense(LATENT_DIM)]
        )
        self.classes.build(())
        self.refine.build((None, LATENT_DIM))
        self.decoder.build((None, LATENT_DIM))
        self.encoder.build((None, *IMAGE_SHAPE))
        self.built = True

    def generate(self, seed, label):
        latent = random.normal(seed, (LATENT_DIM,)) + self.classes(label)
        return self.decode(ops.fori_loop(0, 3, lambda i, x: x + self.refine(x), latent))

    def decode(self, latent):
        return {"image": ops.cast(self.decoder(latent) * 255 + 0.5, "uint8")}

    def encode(self, image):
        return {"mean": self.encoder(ops.cast(image, "float32") / 255 - 0.5)}

    def reconstruct(self, image):
        return self.decode(self.encode(image)["mean"])

    def endpoints(self):
        image = {"image": image_spec(IMAGE_SHAPE)}
        seed = {"seed": seed_spec(), "label": label_spec(NUM_CLASSES)}
        latent = {"latent": TensorSpec((LATENT_DIM,), "float32")}
        mean = {"mean": TensorSpec((LATENT_DIM,), "float32")}
        return {
            "generate": Endpoint(self.generate, seed, image, "Draws images."),
            "encode": Endpoint(self.encode, image, mean, "Encodes images."),
            "decode": Endpoint(self.decode, latent, image, "Decodes latent vectors."),
            "reconstruct": Endpoint(self.reconstruct, image, image, "Encodes and decodes."),
        }


class OneEndpoint(keras.Model):
    """A model whose `generate` is one function of the seed."""

    def __init__(self, function, image_shape=(2, 2, 1)):
        super().__init__(name="one_endpoint")
        self.function, self.image_shape = function, image_shape

    def get_config(self):
        return {}

    def endpoints(self):
        generate = Endpoint(self.function, {"seed": seed_spec()}, {"image": self.image})
        return {"generate": generate}

    @property
    def image(self):
        return image_spec(self.image_shape)


@pytest.fixture(scope="session")
def model():
    keras.utils.set_random_seed(0)
    return Painter(name="painter")


@pytest.fixture(scope="session")
def artifact(model, tmp_path_factory):
    """An artifact for all tests to read; those that change it copy it."""
    import export

    path = tmp_path_factory.mktemp("export") / "painter"
    return export.export(model, path, metadata={"data": {"name": "none"}}, progress=False)


@pytest.fixture(scope="session")
def one_endpoint():
    return OneEndpoint


@pytest.fixture(scope="session")
def golden(artifact):
    from export import parity

    return parity.load_golden(artifact.path / parity.GOLDEN)


@pytest.fixture(scope="session")
def tree():
    """What a folder holds, by content."""

    def read(folder):
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    return read


@pytest.fixture
def requests():
    """Inputs of `generate` at batch size 5, which no export has proven."""
    return {"seed": np.arange(5, dtype="int32"), "label": np.arange(5, dtype="int32") % 3}


@pytest.fixture(scope="session")
def kubernetes_documents():
    """`kubernetes_documents(folder)`: what a folder's kustomization names, each a valid one."""
    validate = pytest.importorskip("kubernetes_validate").validate

    def read(folder):
        [kustomization] = yaml.safe_load_all((folder / "kustomization.yaml").read_text())
        names = {*kustomization["resources"], "kustomization.yaml"}
        assert {path.name for path in folder.iterdir()} == names
        documents = [
            document
            for name in kustomization["resources"]
            for document in yaml.safe_load_all((folder / name).read_text())
        ]
        for document in documents:
            # Kinds that are not Kubernetes's own have no schema in it.
            if ".io/" not in document["apiVersion"] or ".k8s.io/" in document["apiVersion"]:
                validate(document, "1.33", strict=True)
        return documents

    return read
