import inspect

import keras
import numpy as np
import pytest

import kgen
from kgen.models import VAE

IMAGES = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 1), "uint8")


@pytest.fixture(scope="module")
def model():
    return VAE.from_preset("vae_tiny")


@pytest.fixture(scope="module")
def conditional():
    return VAE.from_preset("vae_tiny", num_classes=3)


def test_seeds_and_n_agree(model):
    seeds = keras.ops.convert_to_numpy(kgen.random.row_seeds(7, 5))
    images = model.generate(5, seed=7)
    np.testing.assert_array_equal(model.generate(seeds=seeds), images)
    np.testing.assert_array_equal(model.generate(list(seeds)), images)
    assert model.generate(0).shape == (0, 8, 8, 1)


def test_other_options_after_a_first_compile(model):
    first = model.generate(4, temperature=1.0)
    assert (model.generate(4, temperature=0.5) != first).any()
    np.testing.assert_array_equal(model.generate(4, temperature=1.0), first)


def test_generate_follows_the_weights(model):
    other = VAE.from_preset("vae_tiny")
    before = other.generate(4)
    other.set_weights(model.get_weights())
    np.testing.assert_array_equal(other.generate(4), model.generate(4))
    assert (before != other.generate(4)).any()


def test_a_progress_bar_on_long_work(model, capsys):
    model.generate(40, batch_size=4)
    assert "Generating" in capsys.readouterr().out
    model.generate(40, batch_size=4, progress=False)
    assert "Generating" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"n": 4, "temprature": 1.0}, "Did you mean 'temperature'"),
        ({"n": 4, "labels": 1}, "unconditional and takes no labels"),
        ({"n": 4, "seed": -1}, "seed must be an integer"),
        ({"seeds": [1, 2**31]}, "seed must be an integer"),
        ({"n": 4, "seeds": [1]}, "either n or seeds"),
        ({}, "either n or seeds"),
        ({"n": -1}, r"n must be an int of 0 to 16777216\. Received: n=-1"),
        ({"n": 2.7}, r"n must be an int of 0 to 16777216\. Received: n=2\.7"),
        ({"n": "2"}, "n must be an int of 0 to 16777216"),
        ({"n": 2, "seed": None}, "seed must be an integer .* Received: None"),
        ({"n": 2, "seed": 1.5}, "seed must be an integer .* Received: 1.5"),
        ({"seeds": [1, None]}, "seed must be an integer .* Received: None"),
        ({"n": 2, "batch_size": 2.5}, "batch_size must be a positive int"),
    ],
)
def test_generate_names_what_is_wrong(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.generate(**arguments)


def test_whole_numbers_of_any_type_are_counts_and_seeds(model):
    expected = model.generate(3, seed=2)
    for n, seed in ((3.0, 2.0), (np.int64(3), np.uint8(2)), (np.float32(3), np.float64(2))):
        np.testing.assert_array_equal(model.generate(n, seed=seed), expected)


def test_a_model_is_saved_as_a_keras_file_alone(model, tmp_path):
    for name in ("model.h5", "model.hdf5", "model"):
        with pytest.raises(ValueError, match=r"as a \.keras file, such as .*model\.keras"):
            model.save(tmp_path / name)
    assert not list(tmp_path.iterdir())
    model.save(str(tmp_path / "model.keras"))
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


def test_few_training_images_are_told(model):
    model.compile()
    with pytest.warns(UserWarning, match=r"Training on 1 image: .* of 8 is 1 step\."):
        model.fit(IMAGES[:1], batch_size=8, epochs=0, verbose=0)


def test_counts_of_fit_and_evaluate(model):
    model.compile()
    for batch_size in (0, 2.5, "8"):
        for method in (model.fit, model.evaluate):
            with pytest.raises(ValueError, match="batch_size must be a positive int"):
                method(IMAGES, batch_size=batch_size, verbose=0)
    with pytest.raises(ValueError, match=r"epochs must be .* Received: epochs=2\.7"):
        model.fit(IMAGES, epochs=2.7, verbose=0)


@pytest.mark.parametrize(
    "labels, message",
    [
        (None, "class-conditional and needs labels"),
        (3, "0 to 2. Received: 3"),
        ([0, 1, -1, 0], "Received: -1"),
        ([0, 1], "4 integers"),
        ([0.0, 1.0, 2.0, 0.0], "dtype float64"),
    ],
)
def test_labels_of_a_conditional_model(conditional, labels, message):
    with pytest.raises(ValueError, match=message):
        conditional.generate(4, labels=labels)


@pytest.mark.parametrize(
    "x, y, message",
    [
        (IMAGES.astype("float32"), None, "uint8"),
        (IMAGES[..., 0], None, "received"),
        (np.zeros((4, 12, 8, 1), "uint8"), None, r"shape \(8, 8, 1\)"),
        (IMAGES, np.zeros(32, "int32"), "unconditional and takes no labels"),
    ],
)
def test_fit_names_what_is_wrong(model, x, y, message):
    model.compile()
    with pytest.raises(ValueError, match=message):
        model.fit(x, y, verbose=0)


def test_fit_checks_labels_of_a_conditional_model(conditional):
    conditional.compile()
    with pytest.raises(ValueError, match="needs labels"):
        conditional.fit(IMAGES, verbose=0)
    with pytest.raises(ValueError, match=r"0 to 2\. Received: 3"):
        conditional.fit(IMAGES, np.full(32, 3), verbose=0)


def test_a_split_with_labels_trains_an_unconditional_model(model):
    model.compile()
    model.fit(kgen.data.Split(IMAGES, np.zeros(32, "int32")), epochs=1, verbose=0)


def test_presets(tmp_path, conditional):
    with pytest.raises(ValueError, match="Did you mean 'vae_28x28'"):
        VAE.from_preset("vae_28x82")
    conditional.save_to_preset(tmp_path / "mine")
    again = kgen.ImageGenerator.from_preset(tmp_path / "mine")
    np.testing.assert_array_equal(again.generate(4, labels=1), conditional.generate(4, labels=1))
    assert again.get_config() == conditional.get_config()
    with pytest.raises(FileExistsError, match="exists already"):
        conditional.save_to_preset(tmp_path / "mine")
    with pytest.raises(ValueError, match="own arguments only"):
        VAE.from_preset(tmp_path / "mine", latent_dim=9)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_a_custom_optimizer_brings_its_own_learning_rate(model):
    with pytest.raises(ValueError, match="learning_rate goes with the default"):
        model.compile("sgd", learning_rate=0.1)


def test_unknown_model_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'dcgan'"):
        kgen.models.get("dcgn")


# Frozen layers ------------------------------------------------------------------------


def test_frozen_layers_stay_frozen_through_a_file(tmp_path):
    model = VAE.from_preset("vae_tiny")
    model.encoder.trainable = False
    model.encoder.layers[-1].trainable = True
    model.compile(run_eagerly=keras.backend.backend() == "tensorflow")  # where it is quicker
    model.fit(IMAGES, batch_size=32, verbose=0)
    model.save(tmp_path / "model.keras")
    before = [keras.ops.convert_to_numpy(v).copy() for v in model.variables]
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    for group in ("trainable_variables", "non_trainable_variables"):
        shapes = [[tuple(v.shape) for v in getattr(m, group)] for m in (model, loaded)]
        assert shapes[0] == shapes[1]
    assert 0 < len(model.trainable_variables) < len(VAE.from_preset("vae_tiny").trainable_variables)
    for a, b in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    for trained in (model, loaded):
        trained.fit(IMAGES, batch_size=32, verbose=0)
    frozen = {id(v) for v in loaded.non_trainable_variables}
    for a, b, old in zip(model.variables, loaded.variables, before, strict=True):
        np.testing.assert_array_equal(a, b)
        if id(b) in frozen and "steps" not in b.path:
            np.testing.assert_array_equal(b, old)
    model.trainable = False
    model.trainable = True
    assert "frozen" not in model.get_config()


def test_other_layouts_of_images_are_refused():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match=r"channels last\. Received: .*'channels_first'"):
            VAE.from_preset("vae_tiny")
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.mark.slow
def test_a_global_layout_of_images_refuses_the_import(tmp_path, run_python):
    (tmp_path / "keras.json").write_text('{"image_data_format": "channels_first"}')
    code = "import kgen; print(kgen.layers)"
    result = run_python(code, check=False, env={"KERAS_HOME": str(tmp_path)})
    assert result.stderr.splitlines()[-1].startswith("ImportError: kgen's images have their")


# Predicting ---------------------------------------------------------------------------


def test_predict_takes_what_call_takes(model, conditional):
    expected = keras.ops.convert_to_numpy(model(IMAGES[:8]))
    np.testing.assert_array_equal(model.predict(IMAGES[:8], verbose=0), expected)
    labels = np.arange(8, dtype="int32") % 3
    expected = keras.ops.convert_to_numpy(conditional(IMAGES[:8], labels))
    found = conditional.predict((IMAGES[:8], labels), batch_size=4, verbose=0)
    np.testing.assert_array_equal(found, expected)
    batches = kgen.data.Split(IMAGES[:8], labels).batches(4, shuffle=False)
    np.testing.assert_array_equal(conditional.predict(batches, verbose=0), expected)
    with pytest.raises(ValueError, match=r"class-conditional: predict\(\(x, labels\)\)"):
        conditional.predict(IMAGES[:8], verbose=0)
    with pytest.raises(ValueError, match=r"uint8 images, 0 to 255\. Received: float32"):
        model.predict(IMAGES[:8] / np.float32(255), verbose=0)


def test_only_the_class_has_the_constructors_signature():
    """What is called is called with other arguments: `tf.function` looks at an instance's."""
    model = kgen.models.PixelCNN.from_preset("pixelcnn_tiny")
    assert "image_shape" in inspect.signature(type(model)).parameters
    for called in (model, model.network):
        assert "image_shape" not in inspect.signature(called).parameters
