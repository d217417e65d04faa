"""Options of sampling in artifacts: each image its own, constants of a graph, further endpoints."""

import numpy as np
import pytest
import tensorflow as tf

import export
import kgen

SEEDS = np.arange(4, dtype="int32")


@pytest.fixture(scope="module")
def model():
    return kgen.models.VAE.from_preset("vae_tiny")


@pytest.fixture(scope="module")
def artifact(model, tmp_path_factory):
    return export.export(
        model,
        tmp_path_factory.mktemp("options") / "vae",
        options={"temperature": 0.5},
        variants={"drawn": {"draw": True}, "mean": {"temperature": 0}},
        progress=False,
    )


CHOSEN = {
    "generate": {"temperature": 0.5},
    "drawn": {"temperature": 0.5, "draw": True},
    "mean": {"temperature": 0},
}


@pytest.mark.parametrize("name", CHOSEN)
def test_chosen_when_exported(model, artifact, name):
    expected = model.generate(seeds=SEEDS, **CHOSEN[name])
    session = artifact.onnx_session(name)
    np.testing.assert_array_equal(session.run(["image"], {"seed": SEEDS})[0], expected)
    assert artifact.endpoints[name]["options"] == CHOSEN[name]
    assert "options" not in artifact.endpoints["decode"], "it draws nothing"


def test_chosen_by_the_caller(model, artifact):
    """In a SavedModel by a signature of its own; in ONNX by inputs that have a default."""
    temperatures = np.float32([0.5, 2, 0, 1])
    expected = model.generate(seeds=SEEDS, temperature=temperatures)
    given = {"seed": SEEDS, "temperature": temperatures}
    session = artifact.onnx_session()
    np.testing.assert_array_equal(session.run(["image"], given)[0], expected)
    loaded = tf.saved_model.load(artifact.path / "saved_model" / "1")
    signatures = loaded.signatures
    tensors = {name: tf.constant(value) for name, value in given.items()}
    drawn = signatures["generate_with_options"](**tensors)["image"]
    np.testing.assert_array_equal(drawn, expected)
    np.testing.assert_array_equal(loaded.generate_with_options(tensors)["image"], expected)
    plain = signatures["generate"](seed=tensors["seed"])["image"]
    np.testing.assert_array_equal(plain, model.generate(seeds=SEEDS, temperature=0.5))
    [png, *_] = signatures["image_bytes_with_options"](**tensors)["image_bytes"]
    np.testing.assert_array_equal(tf.io.decode_png(png), expected[0])
    found = export.inspect(png.numpy(), artifact)
    assert found.proven and found.claim.options["temperature"] == 0.5, found.said
    # Below its range it is the least of it, in every format.
    given["temperature"] = np.float32([-1])
    np.testing.assert_array_equal(
        session.run(["image"], given)[0], model.generate(seeds=SEEDS, temperature=0)
    )


def test_in_a_data_set(model, artifact, tmp_path):
    arguments = {"file_format": "npz", "workers": 0, "progress": False}
    options = {"temperature": 2}
    record = export.generate_dataset(artifact, tmp_path / "a", 3, options=options, **arguments)
    export.generate_dataset(artifact, tmp_path / "b", 3, endpoint="mean", **arguments)
    for name, temperature in (("a", 2), ("b", 0)):
        with np.load(tmp_path / name / "shard-000000.npz") as arrays:
            drawn = model.generate(seeds=range(3), temperature=temperature)
            np.testing.assert_array_equal(arrays["x_train"], drawn)
            assert set(arrays) == {"x_train", "seed"}, "no labels"
    assert record["options"] == options


def test_the_manifest_and_the_card_tell_of_them(artifact):
    spec = artifact.endpoints["generate_with_options"]["inputs"]["temperature"]
    assert (spec["default"], spec["minimum"], spec["maximum"]) == (0.5, 0, None)
    assert artifact.endpoints["generate"]["inputs"].keys() == {"seed"}
    card = (artifact.path / "README.md").read_text()
    for wanted in (
        "### generate, generate_with_options",
        '"signature_name": "generate_with_options", "instances": [{"seed": 7, "temperature": 0.5}]',
        "(`temperature`) may be left out",
        "draws one image per seed, with temperature=0.5, draw=True",
    ):
        assert wanted in card
    export.verify(artifact.path, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"options": {"temprature": 1}}, "Unknown option 'temprature'. Did you mean 'temperature'"),
        ({"options": {"temperature": -1}}, "temperature must be 0 or more"),
        ({"variants": {"mean": {"steps": 1}}}, "Unknown option 'steps'"),
        ({"variants": {"decode": {"draw": True}}}, "a name of its own .* Received: 'decode'"),
        ({"variants": {"4_steps": {"draw": True}}}, "a name of its own .* Received: '4_steps'"),
        ({"variants": {"x_with_options": {}}}, "a name of its own"),
    ],
)
def test_what_is_refused_leaves_nothing(model, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export.export(model, tmp_path / "a", progress=False, **options)
    assert not list(tmp_path.iterdir())


def test_models_of_another_kind_have_none(one_endpoint, tmp_path):
    model = one_endpoint(lambda seed: seed)
    with pytest.raises(ValueError, match=r"those of a kgen.ImageGenerator. Received: OneEndpoint"):
        export.export(model, tmp_path / "a", options={"steps": 2}, progress=False)
