"""Learning rates that change: their formulas, what keeps them, and what goes on with them."""

import signal

import keras
import numpy as np
import pytest

import kgen
from kgen.training.errors import Interrupted
from kgen.training.run import load_model, train
from kgen.training.schedules import RunSchedule, schedule_of


def rates(schedule, steps):
    return np.array([float(keras.ops.convert_to_numpy(schedule(step))) for step in steps])


def rate_of(optimizer):
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


@pytest.mark.parametrize("updates", [1, 3])
@pytest.mark.parametrize("name", ["constant", "cosine", "linear"])
def test_rates_by_their_formulas(name, updates):
    steps = np.arange(0, 150)
    share = np.clip((steps - 10) / 90, 0, 1)
    left = {
        "constant": np.ones(150),
        "linear": 1 - share,
        "cosine": (1 + np.cos(np.pi * share)) / 2,
    }
    expected = 0.01 + 0.99 * left[name]
    if updates == 1:
        expected = np.where(steps < 10, (steps + 1) / 11, expected)
    else:  # at the first update of each step of the rise
        expected = np.where(steps < 10, (3 * steps + 1) / 31, expected)
    schedule = RunSchedule(name, 2e-3, 100, 10, updates)
    np.testing.assert_allclose(rates(schedule, steps * updates), 2e-3 * expected, rtol=2e-4)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert again.get_config() == schedule.get_config()


def test_the_warm_up_that_nobody_gave():
    assert [RunSchedule("cosine", 1.0, n).warmup_steps for n in (10, 400, 10**6)] == [0, 20, 1000]
    assert RunSchedule("constant", 1.0, 400).warmup_steps == 0
    assert RunSchedule("linear", 1.0, 400).over(800).warmup_steps == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedule": "cosin", "total_steps": 9}, "Did you mean 'cosine'"),
        ({"schedule": "cosine"}, "give total_steps, epochs"),
        ({"schedule": "linear", "total_steps": 9, "warmup_steps": 9}, "below the 9 steps"),
        ({"schedule": "linear", "total_steps": 0}, "total_steps must be a positive int"),
        (
            {
                "learning_rate": keras.optimizers.schedules.CosineDecay(1.0, 9),
                "schedule": "linear",
                "total_steps": 9,
            },
            "is a schedule already",
        ),
        ({"optimizer": "sgd", "schedule": "linear"}, "schedule goes with the default optimizer"),
        ({"optimizer": "sgd", "total_steps": 3}, "total_steps goes with the default optimizer"),
    ],
)
def test_what_is_no_schedule(arguments, message):
    model = kgen.models.VAE.from_preset("vae_tiny")
    with pytest.raises(ValueError, match=message):
        model.compile(**arguments)


@pytest.mark.slow
def test_both_optimizers_of_a_gan_by_their_own_updates(tmp_path):
    model = kgen.models.DCGAN.from_preset("dcgan_tiny", discriminator_steps=2)
    model.compile(schedule="linear", warmup_steps=2, total_steps=6)
    images = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 1), "uint8")
    model.fit(images, batch_size=8, verbose=0)
    generator, discriminator = model._optimizers()
    assert [int(keras.ops.convert_to_numpy(o.iterations)) for o in model._optimizers()] == [4, 8]
    assert rate_of(generator) == pytest.approx(1e-3 * (1 - 0.99 * 2 / 4), rel=1e-4)
    assert rate_of(discriminator) == pytest.approx(rate_of(generator), rel=1e-4)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(loaded._optimizers(), model._optimizers(), strict=True):
        assert schedule_of(ours).get_config() == schedule_of(theirs).get_config()
        assert rate_of(ours) == rate_of(theirs)


def test_the_defaults_of_the_models():
    scheduled = {n for n, c in kgen.models.registered().items() if c.default_schedule != "constant"}
    families = kgen.models.families()
    expected = families["diffusion"].models.keys() | families["translation"].models.keys()
    assert scheduled == expected
    model = kgen.models.DiT.from_preset("dit_tiny")
    model.compile()
    assert schedule_of(model.optimizer) is None, "how long it trains is not known"
    model.compile(total_steps=200)
    assert schedule_of(model.optimizer).get_config() == {
        "schedule": "cosine",
        "learning_rate": 2e-3,
        "total_steps": 200,
        "warmup_steps": None,
        "updates": 1,
    }
    model.compile(schedule="constant", total_steps=200)
    assert schedule_of(model.optimizer) is None


def begin(run, epochs, **options):
    options = {"schedule": "cosine", "num_samples": 1, "verbose": 0, "batch_size": 256, **options}
    return train("vae_tiny", "digits", run, epochs=epochs, **options)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KGEN_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.slow
def test_with_more_epochs_it_is_the_schedule_of_the_longer_run(tmp_path):
    run = begin(tmp_path / "run", 1, warmup_steps=1)
    steps = 1437 // 256
    assert run.info["schedule"] == {
        "schedule": "cosine",
        "learning_rate": 1e-3,
        "total_steps": steps,
        "warmup_steps": 1,
        "updates": 1,
    }
    assert run.metrics[-1]["learning_rate"] == pytest.approx(1e-5, rel=1e-4)
    said = []
    run = train(run=run.path, resume=True, epochs=2, num_samples=1, verbose=0, report=said.append)
    longer = RunSchedule("cosine", 1e-3, 2 * steps, 1)
    text = f"{rates(longer, [steps])[0]:.3g}"
    assert f"of a run of 2 epochs: the learning rate goes on at {text}; it had" in said[0]
    assert schedule_of(load_model(run.path)[0].optimizer).get_config() == longer.get_config()
    assert run.info["schedule"] == longer.get_config()
    assert run.metrics[-1]["learning_rate"] == pytest.approx(1e-5, rel=1e-4)


@pytest.mark.slow
def test_a_run_with_a_schedule_goes_on_digit_for_digit(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if int(keras.ops.convert_to_numpy(self.model.training_steps)) == 7:
                signal.raise_signal(signal.SIGINT)

    def state(run):
        model = load_model(run.path)[0]
        values = [*model.variables, *model.optimizer.variables]
        return [keras.ops.convert_to_numpy(value) for value in values]

    whole = begin(tmp_path / "whole", 2)
    with pytest.raises(Interrupted):
        begin(tmp_path / "stopped", 2, callbacks=[Stop()])
    stopped = train(run=tmp_path / "stopped", resume=True, num_samples=1, verbose=0)
    assert stopped.metrics == whole.metrics
    for x, y in zip(state(stopped), state(whole), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_on_jax(on_jax, tmp_path):
    code = """
import sys, keras, numpy as np, kgen
from kgen.training.schedules import schedule_of
for name in ("vae", "dcgan"):
    model = kgen.models.get(name).from_preset(f"{name}_tiny")
    model.compile(schedule="cosine", warmup_steps=2, total_steps=8)
    model.fit(np.zeros((32, 8, 8, 1), "uint8"), batch_size=8, verbose=0)
    model.save(sys.argv[1])
    for model in (model, keras.saving.load_model(sys.argv[1])):
        print(*(float(o.learning_rate) for o in model._optimizers()), end=" ")
"""
    found = [float(text) for text in on_jax(code, tmp_path / "model.keras").split()]
    vae = rates(RunSchedule("cosine", 1e-3, 8, 2), [4])[0]
    gan = rates(RunSchedule("cosine", 1e-3, 8, 2), [4])[0]
    assert found == pytest.approx([vae, vae, gan, gan, gan, gan], rel=1e-5)
