"""A preset's folder: what is in it, who can read it, and what is not built from a stranger's."""

import base64
import json
import marshal
import re

import h5py
import keras
import numpy as np
import pytest
import yaml
from keras import layers, ops
from keras.src.saving.serialization_lib import SafeModeScope
from safetensors.numpy import load_file, save_file

import kgen
from kgen import safe_config, weights
from kgen.models import VAE

BOTH = ("h5", "safetensors")


@pytest.fixture
def vae():
    """A tiny VAE with weights that are all other than zero."""
    model = VAE.from_preset("vae_tiny")
    for number, variable in enumerate(model.trainable_variables):
        values = np.random.default_rng(number).normal(0, 0.1, variable.shape)
        variable.assign(values.astype("float32"))
    return model


def in_training(name, **arguments):
    """A tiny model with the state of its optimizers."""
    model_class = kgen.models.get(name)
    classes = {} if name == "vae" else {"num_classes": 3}
    model = model_class.from_preset(model_class.tiny_preset, **classes, **arguments)
    model.compile()
    model.optimizer.build(model.trainable_variables)
    return model


def equal(model, other, **tolerance):
    for a, b in zip(model.weights, other.weights, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (a, b)), **tolerance)


def datasets(path):
    """The names of the arrays in an HDF5 file, and their dtypes."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item.dtype.name}) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found


# Folders ---------------------------------------------------------------------------------


def test_a_folder_is_what_keras_and_kerashub_expect(tmp_path):
    """And has nothing of the training that the model has behind it."""
    model, folder = in_training("dcgan"), tmp_path / "preset"
    about = {"license": "cc0-1.0", "datasets": ["me/emoji"]}
    model.save_to_preset(folder, weights=BOTH, about=about)
    expected = {"config.json", "metadata.json", "README.md", *weights.FILES.values()}
    assert {path.name for path in folder.iterdir()} == expected
    assert len(datasets(folder / "model.weights.h5")) == len(model.weights)
    assert load_file(folder / "model.safetensors").keys() == weights.named(model).keys()
    assert "compile_config" not in json.loads((folder / "config.json").read_text())
    known = json.loads((folder / "metadata.json").read_text())
    assert known["keras_version"] == keras.__version__ and known["kgen_version"] == kgen.__version__
    assert known["parameter_count"] == model.count_params()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d@\d\d:\d\d:\d\d", known["date_saved"])
    assert (known["model"], known["num_classes"], known["license"]) == ("dcgan", 3, "cc0-1.0")
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["license"] == "cc0-1.0" and front["datasets"] == ["me/emoji"]
    assert front["pipeline_tag"] == "unconditional-image-generation"
    assert {"kgen", "keras", "dcgan", "class-conditional"} <= set(front["tags"])
    assert "model-index" not in front and "Nobody has said what it was trained on" in text
    equal(model, keras.saving.load_model(folder))
    (folder / "model.weights.h5").unlink()
    equal(model, kgen.ImageGenerator.from_preset(folder))


def test_the_code_in_the_card_runs(vae, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vae.save_to_preset("mine", samples=np.zeros((5, 8, 8, 1), "uint8"))
    text = (tmp_path / "mine/README.md").read_text()
    assert "![samples](samples.png)" in text and (tmp_path / "mine/samples.png").is_file()
    names = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    np.testing.assert_array_equal(names["images"], vae.generate(16, seed=0))


@pytest.mark.parametrize("format_", BOTH)
def test_float16_is_half_as_large_and_float32_again(vae, tmp_path, format_):
    vae.save_to_preset(tmp_path / "whole", weights=(format_,))
    vae.save_to_preset(tmp_path / "half", weights=(format_,), dtype="float16")
    file = weights.FILES[format_]
    saved = (tmp_path / "whole" / file).stat().st_size - (tmp_path / "half" / file).stat().st_size
    assert saved > 1.9 * vae.count_params()
    loaded = kgen.load(tmp_path / "half")
    equal(vae, loaded, rtol=2**-11, atol=1e-7)
    assert any((a != b).any() for a, b in zip(vae.get_weights(), loaded.get_weights(), strict=True))
    assert loaded.training_steps.dtype == "int32"


def test_a_number_that_float16_does_not_hold_is_named(vae, tmp_path):
    vae.weights[2].assign(ops.full(vae.weights[2].shape, 1e5))
    with pytest.raises(ValueError, match=r"\w+\.\w+ does not fit into float16.*Received: 100000"):
        vae.save_to_preset(tmp_path / "half", dtype="float16")
    for wrong in ({"dtype": "float8"}, {"weights": ("npz",)}, {"weights": "h5"}):
        with pytest.raises(ValueError, match=r"Known: (float16|h5)|a sequence of"):
            vae.save_to_preset(tmp_path / "half", **wrong)
    with pytest.raises(ValueError, match=r"about may have .*Received: 'licence'"):
        vae.save_to_preset(tmp_path / "half", about={"licence": "mit"})
    assert not list(tmp_path.iterdir())


def test_what_earlier_versions_wrote_is_loaded(tmp_path):
    """`config.json` and the HDF5 file alone, with all that Keras keeps of a compiled model."""
    model = in_training("dcgan")
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config")
    (tmp_path / "config.json").write_text(json.dumps(config, indent=2))
    model.save_weights(tmp_path / "model.weights.h5")
    assert len(datasets(tmp_path / "model.weights.h5")) > 2 * len(model.weights)
    equal(model, kgen.load(tmp_path))


def test_a_loss_scale_and_its_optimizer_are_left_out(tmp_path):
    model = in_training("vae", dtype="mixed_float16")
    model.save_to_preset(tmp_path / "preset")
    assert len(datasets(tmp_path / "preset/model.weights.h5")) == len(model.weights)


# Weights ---------------------------------------------------------------------------------


def test_names_of_weights_are_ways_that_stay(vae):
    names = list(weights.named(vae))
    assert names[:2] == ["training_steps", "test_steps"]
    assert {"decoder.conv2d.kernel", "decoder.dense_1.bias", "encoder.dense.kernel"} < set(names)
    assert list(weights.named(VAE.from_preset("vae_tiny"))) == names


def test_tensors_that_do_not_fit_are_named(vae, tmp_path):
    vae.save_to_preset(tmp_path / "preset", weights=("safetensors",))
    file = tmp_path / "preset" / "model.safetensors"
    tensors = load_file(file)
    tensors["more"] = tensors.pop("decoder.conv2d.kernel")
    tensors["encoder.dense.bias"] = np.zeros(3, "float32")
    save_file(tensors, file)
    before = vae.get_weights()
    with pytest.raises(ValueError, match=r"model\.safetensors does not fit.*config\.json") as error:
        weights.read(vae, tmp_path / "preset")
    assert "missing: decoder.conv2d.kernel; superfluous: more; " in str(error.value)
    assert "of another shape: encoder.dense.bias is (3,) and not (32,)" in str(error.value)
    for a, b in zip(before, vae.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        kgen.load(tmp_path / "preset")
    file.unlink()
    with pytest.raises(ValueError, match=r"has no weights: neither model\.safetensors nor"):
        kgen.load(tmp_path / "preset")
    (tmp_path / "preset/model.weights.h5").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"model\.weights\.h5 does not fit the model"):
        kgen.load(tmp_path / "preset")


# Strangers -------------------------------------------------------------------------------


def code_that_writes(path):
    """A Python lambda as Keras keeps one, which writes a file when it is called."""
    code = compile(f"open({str(path)!r}, 'w')", "stranger", "eval")
    return {
        "class_name": "__lambda__",
        "config": {
            "code": base64.b64encode(marshal.dumps(code)).decode(),
            "defaults": None,
            "closure": None,
        },
    }


def entry(module, class_name, /, **config):
    return {"module": module, "class_name": class_name, "config": config, "registered_name": None}


def function(module, name):
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


def within(layer):
    """A network of one layer."""
    network = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    network = keras.saving.serialize_keras_object(network)
    network["config"]["layers"][1] = layer
    return network


@pytest.fixture(scope="module")
def config():
    """That of a VAE."""
    return json.loads(json.dumps(keras.saving.serialize_keras_object(VAE.from_preset("vae_tiny"))))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: code_that_writes(path),
        lambda path: within(entry("keras.layers", "Lambda", function=code_that_writes(path))),
        lambda path: within(entry("keras.layers", "Lambda", function=function("os", "system"))),
        lambda path: within(
            entry("keras.src.layers.core.lambda_layer", "Lambda", function=code_that_writes(path))
        ),
        lambda path: within(entry("keras.layers", "TFSMLayer", filepath=str(path))),
        lambda path: within(entry("keras.layers", "StringLookup", vocabulary="/etc/hostname")),
        lambda path: within(entry("keras.layers", "TorchModuleWrapper", module="gANjb3M=")),
        lambda path: within(
            entry("keras.layers", "Dense", units=3, activation=function("keras.utils", "get_file"))
        ),
        lambda path: entry("subprocess", "Popen", args=["touch", str(path)]),
        lambda path: entry("os", "system", command=f"touch {path}"),
        lambda path: entry("keras.src.utils.python_utils", "func_load", code=""),
        lambda path: entry("keras.callbacks", "ModelCheckpoint", filepath=str(path)),
        lambda path: entry("keras.layers", "utils.get_file", fname="x", origin=f"file://{path}"),
        lambda path: within(  # found by one name here, by another by Keras
            {
                **entry(None, "Lambda", function=code_that_writes(path)),
                "registered_name": "kgen>FSQ",
            }
        ),
        lambda path: within(
            {"class_name": "Lambda", "config": {"function": code_that_writes(path)}}
        ),
        lambda path: {"class_name": ["Dense"], "config": {}},
        lambda path: {"class_name": "__typespec__", "config": []},
    ],
)
@pytest.mark.parametrize("unsafe", [False, True])
def test_a_strangers_configuration_runs_nothing(config, tmp_path, make, unsafe):
    written = tmp_path / "written"
    changed = {**config, "config": {**config["config"], "encoder": make(written)}}
    # Whatever a process allows its own files.
    with (
        SafeModeScope(not unsafe),
        pytest.raises(ValueError, match=r"is not built from a file|must be a string"),
    ):
        safe_config.build(changed, kgen.ImageGenerator)
    assert not written.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: entry("keras", "Sequential", layers=[]), "of 'Sequential'"),
        (lambda config: [config], "of 'list'"),
        (lambda config: {**config, "registered_name": "kgen>FSQ"}, "holds 'VAE' of 'kgen"),
        (lambda config: {**config, "registered_name": None}, "of 'kgen.models.vae.vae'"),
        (
            lambda config: {**config, "config": {**config["config"], "tokenizer": "/mine.keras"}},
            "names another file or preset, by tokenizer='/mine.keras'",
        ),
        (
            lambda config: {**config, "config": {**config["config"], "filtres": 3}},
            "does not build a VAE: .*filtres",
        ),
        (
            lambda config: {
                **config,
                "config": {
                    **config["config"],
                    "encoder": within(
                        entry(
                            "keras.layers",
                            "Dense",
                            units=3,
                            activation=function("builtins", "eval"),
                        )
                    ),
                },
            },
            "does not build a VAE: Could not .*eval",
        ),
        (lambda config: {**config, "config": {"image_shape": [8, 8, 2]}}, "channels"),
    ],
)
def test_a_configuration_of_something_else_is_refused(config, change, message):
    with pytest.raises(ValueError, match=message):
        safe_config.build(change(config), kgen.ImageGenerator)


def test_a_deep_configuration_is_refused(vae, tmp_path):
    vae.save_to_preset(tmp_path / "preset")
    (tmp_path / "preset/config.json").write_text(100_000 * '{"a":' + "1" + 100_000 * "}")
    with pytest.raises(ValueError, match=r"config\.json cannot be loaded"):
        kgen.load(tmp_path / "preset")


def test_networks_of_all_kinds_of_layers_are_built():
    """Activations, operators, wrappers, cells and policies, as Keras writes them."""
    x = inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, activation=ops.silu, kernel_constraint="max_norm")(x)
    x = layers.Dense(4, activation=keras.activations.gelu, kernel_regularizer="l2")(x)
    x = ops.relu(layers.Rescaling(2.0, dtype="mixed_bfloat16")(x) * 2 + 1)
    x = layers.TimeDistributed(keras.Sequential([layers.Dense(3), layers.ReLU()]))(x)
    x = layers.RNN(layers.LSTMCell(3))(layers.Reshape((-1, 3))(x))
    network = keras.Model(inputs, layers.BatchNormalization()(x))
    network.compile("adam")
    text = json.dumps(keras.saving.serialize_keras_object(network))

    def for_use(entry):
        return {key: part for key, part in entry.items() if key != "compile_config"}

    assert safe_config.check(json.loads(text)) == json.loads(text, object_hook=for_use)


# Trained presets ---------------------------------------------------------------------------


def test_what_a_stranger_puts_beside_a_preset_is_not_loaded(vae, tmp_path):
    vae.save_to_preset(tmp_path / "preset")
    (tmp_path / "preset/run.json").write_text('{"status": "finished"}')
    (tmp_path / "preset/model.keras").write_bytes(b"what only Keras's safe mode guards")
    assert kgen.load(tmp_path / "preset").get_config() == vae.get_config()


def test_trained_presets_are_found_by_their_names(vae, tmp_path, monkeypatch):
    monkeypatch.setattr(kgen.models, "TRAINED", tmp_path)
    assert kgen.models.trained() == {}
    vae.save_to_preset(tmp_path / "vae_dots", weights=("safetensors",), dtype="float16")
    assert kgen.models.trained()["vae_dots"]["model"] == "vae"
    expected = kgen.load(tmp_path / "vae_dots").generate(3)
    np.testing.assert_array_equal(kgen.load("vae_dots").generate(3), expected)
    np.testing.assert_array_equal(VAE.from_preset("vae_dots").generate(3), expected)
    with pytest.raises(ValueError, match="Did you mean 'vae_dots'"):
        VAE.from_preset("vae_dot")
    vae.save_to_preset(tmp_path / "here" / "vae_dots")
    monkeypatch.chdir(tmp_path / "here")  # what lies here goes first
    equal(vae, kgen.load("vae_dots"))
