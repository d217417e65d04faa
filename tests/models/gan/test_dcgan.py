import functools
import inspect

import keras
import numpy as np
import pytest
from keras import ops

import kgen
from kgen.layers.augmentation import POLICIES
from kgen.models import DCGAN
from kgen.models.gan import diagnosis
from kgen.models.gan import losses as adversarial
from kgen.models.gan.dcgan import feature_maps
from kgen.training.step import Batch

# Tracing a step takes TensorFlow as long as ten eager ones.
EAGER = keras.backend.backend() == "tensorflow"
IMAGES = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 1), "uint8")
LABELS = np.arange(32, dtype="int32") % 3


def tiny(**overrides):
    keras.utils.set_random_seed(0)
    return DCGAN.from_preset("dcgan_tiny", **overrides)


@functools.cache
def built(loss="non_saturating", num_classes=None):
    """A tiny model that many tests share: they read it, or train it on."""
    return tiny(loss=loss, num_classes=num_classes)


def compiled(
    generator_optimizer=None, discriminator_optimizer=None, run_eagerly=EAGER, **overrides
):
    model = tiny(**overrides)
    model.compile(generator_optimizer, discriminator_optimizer, run_eagerly=run_eagerly)
    return model


def batch(labels=None):
    labels = None if labels is None else ops.convert_to_tensor(labels)
    return Batch(ops.convert_to_tensor(IMAGES), labels, kgen.random.row_seeds(5, len(IMAGES)))


def values(variables):
    return [ops.convert_to_numpy(variable).copy() for variable in variables]


def moved(before, variables):
    return [(a != b).any() for a, b in zip(before, values(variables), strict=True)]


def counts(model):
    """Steps of the model, of the generator and of the discriminator."""
    optimizers = (model.optimizer, model.generator_optimizer, model.discriminator_optimizer)
    return [int(ops.convert_to_numpy(optimizer.iterations)) for optimizer in optimizers]


def fit(model, labels=None, epochs=1, batch_size=32, **arguments):
    arguments = {"verbose": 0, "shuffle": False, **arguments}
    return model.fit(IMAGES, labels, batch_size=batch_size, epochs=epochs, **arguments).history


# Architecture -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "smallest"),
    [(8, 2), (12, 3), (16, 4), (20, 5), (28, 7), (32, 4), (64, 4), (100, 25), (128, 4)],
)
def test_feature_maps(side, smallest):
    assert feature_maps((side, side, 3))[-1] == (smallest, smallest)


@pytest.mark.parametrize(
    ("shape", "num_classes"),
    [((12, 8, 1), None), ((16, 28, 4), 3)],
)
def test_shapes(shape, num_classes):
    model = DCGAN(shape, num_classes=num_classes, latent_dim=4, filters=2)
    labels = None if num_classes is None else np.array([0, 1])
    assert model.sample(np.array([3, 4], "int32"), labels).shape == (2, *shape)
    one_hot = [] if num_classes is None else [np.eye(3, dtype="float32")[:2]]
    assert model.discriminator([np.zeros((2, *shape), "float32"), *one_hot]).shape == (2, 1)


@pytest.mark.parametrize("shape", [(128, 128, 3), (128, 8, 4)])
def test_the_largest_images(shape):
    model = DCGAN(shape, latent_dim=2, filters=1)
    assert model.generator.output_shape == (None, *shape)
    assert model.discriminator.output_shape == (None, 1)


def test_the_guidelines_of_the_paper():
    model = DCGAN((32, 32, 3), latent_dim=16, filters=8)
    kept = ("Conv2D", "Conv2DTranspose", "BatchNormalization", "ReLU", "LeakyReLU")

    def kinds(network):
        names = [type(layer).__name__ for layer in network.layers]
        return [name for name in names if name in kept]

    up = ["BatchNormalization", "ReLU", "Conv2DTranspose"]
    down = ["Conv2D", "BatchNormalization", "LeakyReLU"]
    assert kinds(model.generator) == 3 * up, "no normalisation at the output"
    assert kinds(model.discriminator) == ["Conv2D", "LeakyReLU", *down, *down]
    for network in (model.generator, model.discriminator):
        for variable in network.trainable_variables:
            if variable.path.endswith("kernel"):
                assert np.std(ops.convert_to_numpy(variable)) == pytest.approx(0.02, rel=0.2)
    assert "BatchNormalization" not in kinds(
        DCGAN((32, 32, 3), loss="wasserstein_gp").discriminator
    )


def test_every_argument_is_kept():
    arguments = {
        "image_shape": [8, 12, 1],
        "num_classes": 3,
        "latent_dim": 5,
        "filters": 4,
        "generator": None,  # one that is given: tests/models/test_given_networks.py
        "discriminator": None,
        "loss": "hinge",
        "discriminator_steps": 2,
        "label_smoothing": 0.0,
        "gradient_penalty_weight": 3.0,
        "clip_value": 0.1,
        "r1_weight": 0.5,
        "r2_weight": 0.0,
        "penalty": "finite_difference",
        "penalty_interval": 4,
        "burn_in_steps": 100,
        "instance_noise": 0.1,
        "lecam_weight": 0.2,
        "feature_matching_weight": 0.3,
        "class_head": "auxiliary",
        "auxiliary_weight": 0.5,
        "augmentation": ["colour", "cutout"],
        "augmentation_probability": "adaptive",
        "ema_decay": 0.5,
        "seed": 7,
    }
    assert arguments.keys() == inspect.signature(DCGAN).parameters.keys() - {"kwargs"}
    config = DCGAN(**arguments).get_config()
    assert {name: config[name] for name in arguments} == arguments
    assert DCGAN.from_config(config).get_config() == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_shape": (30, 28, 1)}, r"divide by 4 and are 8 to 128.*\(30, 28, 1\)"),
        ({"image_shape": (4, 4, 1)}, "8 to 128"),
        ({"image_shape": (132, 132, 1)}, "8 to 128"),
        ({"loss": "hing"}, "Unknown loss 'hing'. Did you mean 'hinge'"),
        ({"discriminator_steps": 0}, "positive int.*discriminator_steps=0"),
        ({"ema_decay": 1.0}, "below 1. Received: ema_decay=1.0"),
        ({"label_smoothing": 1.0}, "below 1. Received: label_smoothing=1.0"),
        (
            {"label_smoothing": 0.1, "loss": "hinge"},
            "losses minimax and non_saturating, .* label_smoothing=0.1, loss='hinge'",
        ),
        ({"clip_value": 0.0}, "above 0. Received: clip_value=0.0"),
        ({"gradient_penalty_weight": -1.0}, "0 or more. Received: gradient_penalty_weight=-1.0"),
        ({"r1_weight": -1.0}, "0 or more. Received: r1_weight=-1.0"),
        ({"penalty": "r1"}, "Unknown penalty 'r1'. Known: exact, finite_difference"),
        ({"penalty_interval": 0}, "positive int.*penalty_interval=0"),
        ({"augmentation": ["rotation"]}, "Unknown augmentation 'rotation'"),
        ({"latent_dim": 0}, "positive int.*latent_dim=0"),
        ({"filters": 0}, "positive int.*filters=0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)


def test_a_label_changes_the_image_and_the_logit():
    model = tiny(num_classes=3)
    seeds, labels = np.array([7, 7, 7], "int32"), np.array([0, 1, 1])
    images = ops.convert_to_numpy(model.sample(seeds, labels))
    assert (images[0] != images[1]).any()
    np.testing.assert_array_equal(images[1], images[2])
    pixels = ops.zeros((3, 8, 8, 1)) + 0.5
    one, two, _ = ops.convert_to_numpy(model._discriminate(pixels, labels))
    assert one != two


# Training -----------------------------------------------------------------------------


def check_training(loss, num_classes, discriminator_steps=1, run_eagerly=EAGER):
    model = built(loss, num_classes)
    model.compile(run_eagerly=run_eagerly)
    by_paper = model.discriminator_steps
    model.discriminator_steps = discriminator_steps
    before = values(model.trainable_variables)
    history = fit(model, None if num_classes is None else LABELS)
    model.discriminator_steps = by_paper
    assert history.keys() == {*model.metric_names, *model.training_metric_names}
    assert np.isfinite(list(history.values())).all()
    # A constant added to all logits cancels in these losses (in hinge's, near zero).
    without = ("wasserstein", "wasserstein_gp", "hinge", "relativistic")
    for variable, has in zip(
        model.trainable_variables, moved(before, model.trainable_variables), strict=True
    ):
        assert has or (variable.shape == (1,) and loss in without), variable.path


@pytest.mark.parametrize(
    ("loss", "num_classes"),
    [
        ("minimax", None),
        ("non_saturating", None),
        ("least_squares", None),
        ("wasserstein", None),
        ("wasserstein_gp", 3),
        ("hinge", 3),
        ("relativistic", None),
    ],
)
def test_every_loss_trains_both_networks(loss, num_classes):
    check_training(loss, num_classes)


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [None, 3])
@pytest.mark.parametrize("loss", adversarial.LOSSES)
def test_every_loss_trains_both_networks_in_one_graph(loss, num_classes):
    check_training(loss, num_classes, discriminator_steps=2, run_eagerly=False)


def test_each_optimizer_moves_its_own_network():
    model = tiny()
    networks = {"generator": model.generator, "discriminator": model.discriminator}
    for still in networks:
        still_optimizer = {f"{still}_optimizer": keras.optimizers.SGD(0.0)}
        model.compile(**still_optimizer, run_eagerly=EAGER)
        before = {name: values(network.trainable_variables) for name, network in networks.items()}
        fit(model)
        for name, network in networks.items():
            has = moved(before[name], network.trainable_variables)
            assert has == [name != still] * len(has)


def test_each_phase_asks_for_its_own_variables_with_the_same_images():
    model = compiled(discriminator_steps=3)
    asked, streams = [], []
    draw = model._draw

    def recording_draw(generator, batch, stream, training):
        streams.append(stream)
        return draw(generator, batch, stream, training)

    def minimize(objective, optimizer, variables):
        asked.append((optimizer, [id(variable) for variable in variables]))
        return {**objective()[1], "gradient_norm": ops.zeros(())}

    model._draw = recording_draw
    model.update(batch(), minimize)
    generator, discriminator = (
        (optimizer, [id(variable) for variable in network.trainable_variables])
        for optimizer, network in (
            (model.generator_optimizer, model.generator),
            (model.discriminator_optimizer, model.discriminator),
        )
    )
    assert asked == [generator, discriminator, discriminator, discriminator]
    assert streams == [0, 2, 4], "the first step's images are the generator's, then fresh ones"


def test_discriminator_steps_are_those_of_the_papers():
    by_paper = {"minimax": 1, "non_saturating": 1, "least_squares": 1, "hinge": 1}
    by_paper |= {"wasserstein": 5, "wasserstein_gp": 5, "relativistic": 1}
    for loss in adversarial.LOSSES:
        model = built(loss, 3 if loss in ("wasserstein_gp", "hinge") else None)
        assert model.discriminator_steps == by_paper[loss]


def test_weights_are_clipped():
    model = compiled(loss="wasserstein", clip_value=0.005, discriminator_steps=1)
    assert max(np.abs(v).max() for v in values(model.discriminator.trainable_variables)) > 0.01
    fit(model)
    for variable in values(model.discriminator.trainable_variables):
        assert np.abs(variable).max() <= np.float32(0.005)
    assert max(np.abs(v).max() for v in values(model.generator.trainable_variables)) > 0.01


def test_gradient_penalty_of_a_linear_critic(monkeypatch):
    """Its gradient is its weight vector, wherever it is taken."""
    model = built("wasserstein_gp", 3)
    monkeypatch.setattr(model, "gradient_penalty_weight", 3.0)
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(8, 8, 1)).astype("float32")
    real, fake = rng.normal(size=(2, 32, 8, 8, 1)).astype("float32")
    linear = lambda pixels, labels, training=True: ops.sum(pixels * weight, axis=(1, 2, 3))  # noqa: E731
    monkeypatch.setattr(model, "_discriminate", linear)
    loss, _ = model.discriminator_objective(
        batch(LABELS), ops.convert_to_tensor(real), ops.convert_to_tensor(fake), 0
    )
    scores = [(pixels * weight).sum((1, 2, 3)).mean() for pixels in (fake, real)]
    expected = scores[0] - scores[1] + 3.0 * (np.linalg.norm(weight) - 1) ** 2
    assert float(ops.convert_to_numpy(loss)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("penalty", ["exact", "finite_difference"])
def test_zero_centred_penalties_of_a_linear_critic(penalty, monkeypatch):
    """R1 of the real images' gradients and R2 of the others', every fourth time four times."""
    model = built("relativistic")
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(8, 8, 1)).astype("float32")
    real, fake = map(ops.convert_to_tensor, rng.normal(size=(2, 32, 8, 8, 1)).astype("float32"))
    linear = lambda pixels, labels, training=True: ops.sum(pixels * weight, axis=(1, 2, 3))  # noqa: E731
    monkeypatch.setattr(model, "_discriminate", linear)

    def loss(**settings):
        for name, value in {"penalty": penalty, "penalty_interval": 1, **settings}.items():
            monkeypatch.setattr(model, name, value)
        return float(ops.convert_to_numpy(model.discriminator_objective(batch(), real, fake, 0)[0]))

    without = loss(r1_weight=0.0, r2_weight=0.0)
    tolerance = 1e-4 if penalty == "exact" else 0.5  # of 32 directions of noise
    squared = (weight**2).sum() / 2
    for weights in ((3.0, 0.0), (0.0, 2.0), (3.0, 2.0)):
        added = loss(r1_weight=weights[0], r2_weight=weights[1]) - without
        assert added == pytest.approx(sum(weights) * squared, rel=tolerance)
    lazily = []
    for step in range(8):
        model.training_steps.assign(step)
        lazily.append(loss(r1_weight=3.0, r2_weight=2.0, penalty_interval=4) - without)
    model.training_steps.assign(0)
    expected = [4 * added if step % 4 == 0 else 0 for step in range(8)]
    assert lazily == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_lazy_penalties_train_in_one_graph():
    arguments = {"r1_weight": 1e6, "penalty_interval": 2, "augmentation": tuple(POLICIES)}
    model = compiled(loss="relativistic", run_eagerly=False, **arguments)
    history = fit(model, epochs=4)
    losses = history["discriminator_loss"]
    assert np.isfinite(losses).all() and min(losses[1::2]) > max(losses[::2])


def test_penalised_discriminators_are_not_normalised():
    layers = [type(layer).__name__ for layer in built("relativistic").discriminator.layers]
    assert "BatchNormalization" not in layers
    plain = tiny(loss="relativistic", r1_weight=0, r2_weight=0)
    assert "BatchNormalization" in [type(layer).__name__ for layer in plain.discriminator.layers]
    assert built("relativistic").r1_weight == 1.0 and built().r1_weight == 0.0


def test_the_average_of_the_generator():
    model = compiled(ema_decay=0.4)
    start = values(model.generator.variables)
    for ours, theirs in zip(start, values(model.ema_generator.variables), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    average = start
    for step in range(1, 4):
        fit(model, batch_size=32, epochs=step, initial_epoch=step - 1)
        decay = min(0.4, (1 + step) / (10 + step))  # 2/11, 3/12, 4/13: rising towards 0.4
        now = values(model.generator.variables)
        average = [n + decay * (a - n) for a, n in zip(average, now, strict=True)]
        for expected, got in zip(average, values(model.ema_generator.variables), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)
    assert not model.ema_generator.trainable_variables
    names = [v.path.split("/")[-1] for v in model.ema_generator.variables]
    assert "moving_mean" in names and "moving_variance" in names


def test_samples_are_drawn_from_the_average():
    model = tiny()
    seeds = np.array([1, 2, 3], "int32")
    before = ops.convert_to_numpy(model.sample(seeds))
    model.generator.set_weights([0 * w for w in model.generator.get_weights()])
    np.testing.assert_array_equal(ops.convert_to_numpy(model.sample(seeds)), before)
    model.ema_generator.set_weights(model.generator.get_weights())
    assert (ops.convert_to_numpy(model.sample(seeds)) == 128).all()


def test_sampling_is_decoding():
    model = built()
    seeds = np.array([1, 2, 3], "int32")
    latents = kgen.random.normal(ops.convert_to_tensor(seeds), (8,))
    images = ops.convert_to_numpy(model.decode(latents))
    np.testing.assert_array_equal(model.generate(seeds=seeds), images)
    np.testing.assert_array_equal(ops.convert_to_numpy(model(latents)), images)
    still = ops.convert_to_numpy(model.sample(seeds, temperature=0.0))
    np.testing.assert_array_equal(still[0], still[1])


def test_evaluation_updates_nothing():
    model = built("hinge", 3)
    model.compile(run_eagerly=EAGER)
    state = [v for v in model.variables if v is not model.test_steps]
    state = [v for v in state if not any(v is m for t in model.trackers for m in t.variables)]
    before = values(state) + values(model.optimizer.variables)
    logs = model.evaluate(IMAGES, LABELS, batch_size=16, return_dict=True, verbose=0)
    assert logs.keys() == set(model.metric_names)
    assert not any(moved(before, [*state, *model.optimizer.variables]))


# What is logged -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "real_accuracy", "fake_accuracy"),
    # Real logits 0.2, 0.4, 0.6, 2.4; fake -1.1, -0.1, 0.3, 0.7; midpoint (0.9 - 0.05) / 2.
    [("hinge", 1.0, 0.5), ("least_squares", 0.5, 0.75), ("wasserstein", 0.5, 0.75)],
)
def test_accuracies_and_spread_by_hand(loss, real_accuracy, fake_accuracy, monkeypatch):
    model = built(loss, 3 if loss == "hinge" else None)
    real = np.zeros((4, 8, 8, 1), "float32")
    real[:, 0, 0, 0] = [0.2, 0.4, 0.6, 2.4]
    fake = np.zeros((4, 8, 8, 1), "float32")
    fake[:, 0, 0, 0] = [-1.1, -0.1, 0.3, 0.7]
    monkeypatch.setattr(model, "_discriminate", lambda pixels, labels: pixels[:, 0, 0, 0])
    four = Batch(*(part if part is None else part[:4] for part in batch()))
    if model.num_classes is not None:
        four = Batch(four.images, ops.convert_to_tensor([0, 0, 1, 1]), four.seeds)
    _, logs = model.discriminator_objective(
        four, ops.convert_to_tensor(real), ops.convert_to_tensor(fake), 0
    )
    logs = {name: float(ops.convert_to_numpy(value)) for name, value in logs.items()}
    assert (logs["real_accuracy"], logs["fake_accuracy"]) == (real_accuracy, fake_accuracy)
    spread = fake.std(0).mean() / real.std(0).mean()
    assert logs["sample_spread"] == pytest.approx(spread, rel=1e-4)


def test_labels_of_real_images_are_smoothed_by_default():
    def loss_of(**arguments):
        loss, _ = tiny(**arguments).discriminator_objective(batch(), pixels, 0 * pixels, 0)
        return float(ops.convert_to_numpy(loss))

    pixels = ops.convert_to_tensor(np.random.default_rng(0).normal(size=(16, 8, 8, 1)), "float32")
    logits = tiny()._discriminate(pixels, None)
    added = 0.1 * float(ops.convert_to_numpy(ops.mean(logits)))
    assert loss_of() == pytest.approx(loss_of(label_smoothing=0.0) + added, rel=1e-4)
    assert tiny(loss="minimax").label_smoothing == 0.1
    assert tiny(loss="hinge").label_smoothing == 0.0


def test_a_collapsed_generator_is_named():
    """A generator that draws one image from every seed."""
    model = compiled(keras.optimizers.SGD(0.0))
    model.generator.set_weights([0 * w for w in model.generator.get_weights()])
    fit(model)  # silent: too early to tell from an untrained generator
    model.training_steps.assign(500)
    with pytest.warns(UserWarning, match="mode collapse: the spread .* is 0 times"):
        fit(model)


def test_the_least_spread_within_a_class():
    rng = np.random.default_rng(0)
    real, fake = (rng.normal(size=(13, 4, 2, 3)).astype("float32") for _ in range(2))
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3])  # of class 3 there is one row
    fake[labels == 1] *= 0.4

    def spread(rows):
        return np.sqrt(rows.var(axis=0).mean())

    expected = [spread(fake[labels == c]) / spread(real[labels == c]) for c in (0, 1, 2)]
    assert np.argmin(expected) == 1
    given = [ops.convert_to_tensor(x) for x in (real, fake, labels)]
    found = float(ops.convert_to_numpy(diagnosis.class_spread(*given, 4)))
    assert found == pytest.approx(min(expected), rel=1e-4)
    fake[labels == 2] = fake[8]
    given[1] = ops.convert_to_tensor(fake)
    assert float(ops.convert_to_numpy(diagnosis.class_spread(*given, 4))) < 1e-3
    alone = [x[-1:] for x in given]
    assert float(ops.convert_to_numpy(diagnosis.class_spread(*alone, 4))) == 1


def test_a_class_that_collapses_is_named():
    """A generator that draws one image of class 1, and others as they come."""
    model = tiny(num_classes=3)
    healthy = {"sample_spread": 0.9, "class_spread": 0.5}
    model.training_steps.assign(500)
    assert model.diagnose(healthy) == []
    assert model.diagnose({**healthy, "class_spread": 0.1})[0].startswith("class collapse: within")
    # All images alike are one warning, not two.
    (both,) = model.diagnose({"sample_spread": 0.1, "class_spread": 0.1})
    assert both.startswith("mode collapse")


def test_one_image_is_no_collapse():
    model = built()
    one = Batch(*(part if part is None else part[:1] for part in batch()))
    logs = model.test_update(one)
    assert float(ops.convert_to_numpy(logs["sample_spread"])) == 1


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_a_frozen_player_stays_as_it_is(player):
    model = tiny()
    frozen = getattr(model, player)
    frozen.trainable = False
    model.compile(run_eagerly=EAGER)
    before, others = values(frozen.weights), values(model.trainable_variables)
    fit(model)
    assert not any(moved(before, frozen.weights))
    assert all(moved(others, model.trainable_variables))
    model.compile(run_eagerly=EAGER)  # with fresh optimizers, and both frozen
    model.trainable = False
    model.compile(run_eagerly=EAGER)
    fit(model)
    again = type(model).from_config(model.get_config())
    assert not again.trainable_variables


def test_averaged_weights_are_never_trained():
    model = tiny()
    names = [v.path for v in model.trainable_variables]
    model.trainable = False
    assert not model.trainable_variables
    model.trainable = True
    assert not model.ema_generator.trainable
    assert [v.path for v in model.trainable_variables] == names
    for layer in model.layers:
        layer.trainable = True
    model.compile()
    assert not model.ema_generator.trainable
    assert [v.path for v in model.trainable_variables] == names


def test_diagnosis():
    model = tiny()  # of no steps yet
    healthy = {"real_accuracy": 0.95, "fake_accuracy": 0.95, "sample_spread": 0.85}
    perfect = {**healthy, "real_accuracy": 1.0, "fake_accuracy": 1.0}
    assert model.diagnose({**perfect, "sample_spread": 0.01}) == []
    for steps in (500, 100000):
        model.training_steps.assign(steps)
        assert model.diagnose(healthy) == []
        assert model.diagnose({**healthy, "val_sample_spread": 0.5}) == []
        assert "mode collapse" in model.diagnose({**healthy, "sample_spread": 0.1})[0]
        assert "mode collapse" in model.diagnose({**healthy, "val_sample_spread": 0.1})[0]
        assert "the discriminator wins" in model.diagnose(perfect)[0]
        torn = {**healthy, "discriminator_gradient_norm": 2000.0}
        assert "divergence: discriminator_gradient_norm is 2e+03" in model.diagnose(torn)[0]
        by_heart = {**healthy, "real_score": 2.0, "fake_score": -1.0, "val_real_score": -0.7}
        assert "memorisation: .* lack 90 %" in model.diagnose(by_heart)[0].replace(
            "of what the discriminator's logits of training images are above those of generated "
            "ones, held-out images",
            ".*",
        )
        assert model.diagnose({**by_heart, "val_real_score": 1.5}) == []
    critic = built("wasserstein")
    critic.training_steps.assign(500)
    assert critic.diagnose(perfect) == [], "a critic is meant to be right"


# Optimizers, saving, precision --------------------------------------------------------


@pytest.mark.parametrize(
    "callback",
    [
        keras.callbacks.EarlyStopping("loss"),
        keras.callbacks.ReduceLROnPlateau(),
        keras.callbacks.ModelCheckpoint("best.keras", save_best_only=True),
    ],
)
def test_there_is_no_loss_to_monitor(callback):
    model = DCGAN.from_preset("dcgan_tiny")
    model.compile()
    with pytest.raises(ValueError, match=r"logs no (val_)?loss.*EvaluateSamples.*generator_loss"):
        model.fit(np.zeros((2, 8, 8, 1), "uint8"), callbacks=callback, verbose=0)
    assert model.steps_trained == 0


def test_default_optimizers_are_those_of_the_papers():
    def settings(loss, num_classes=None):
        model = built(loss, num_classes)
        model.compile()
        assert model.generator_optimizer is not model.discriminator_optimizer
        found = {
            (type(o).__name__, round(float(o.learning_rate), 6), getattr(o, "beta_1", None))
            for o in (model.generator_optimizer, model.discriminator_optimizer)
        }
        return found.pop() if len(found) == 1 else found

    assert settings("non_saturating") == ("Adam", 1e-3, 0.5)
    assert settings("wasserstein") == ("RMSprop", 5e-5, None)
    assert settings("wasserstein_gp", 3) == ("Adam", 1e-4, 0.0)


def test_compile_arguments():
    model = tiny()
    model.compile(discriminator_optimizer="sgd", learning_rate=1e-3)
    assert isinstance(model.discriminator_optimizer, keras.optimizers.SGD)
    assert float(model.generator_optimizer.learning_rate) == pytest.approx(1e-3)
    adam = keras.optimizers.Adam()
    with pytest.raises(ValueError, match="an optimizer each"):
        model.compile(adam, adam)
    with pytest.raises(ValueError, match=r"Received: learning_rate=0\.1"):
        model.compile("adam", "adam", learning_rate=0.1)


def test_precision():
    with pytest.raises(ValueError, match="mixed_bfloat16"):
        tiny(dtype="mixed_float16").compile()
    model = compiled(num_classes=3, dtype="mixed_bfloat16")
    before = values(model.trainable_variables)
    assert np.isfinite(list(fit(model, LABELS).values())).all()
    assert all(moved(before, model.trainable_variables))
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    image = model.sample(np.array([1], "int32"), np.array([0]))
    assert ops.convert_to_numpy(image).dtype == np.uint8


LOAD = """
import sys
import keras, numpy as np
import kgen.models
kgen.models.registered()
model = keras.saving.load_model(sys.argv[1])
arrays = [keras.ops.convert_to_numpy(v) for v in model.optimizer.variables]
images = np.zeros((16, 8, 8, 1), "uint8")
labels = np.zeros(16, "int32")
generated = model.generate(4, labels=[0, 1, 2, 0])
model.fit(images, labels, batch_size=16, epochs=1, verbose=0)
counts = [int(keras.ops.convert_to_numpy(o.iterations)) for o in
          (model.optimizer, model.generator_optimizer, model.discriminator_optimizer)]
np.savez(sys.argv[2], *arrays, generated=generated, counts=counts)
"""


@pytest.mark.slow
def test_a_file_goes_on_with_both_optimizers_on_the_other_backend(tmp_path, on_backend):
    """On its own the next test shows it, and the zoo's."""
    other = {"tensorflow": "jax", "jax": "tensorflow"}[keras.backend.backend()]
    model = compiled(
        keras.optimizers.Adam(3e-4, beta_1=0.4), "sgd", num_classes=3, discriminator_steps=2
    )
    fit(model, LABELS)
    model.save(tmp_path / "model.keras")
    expected = values(model.optimizer.variables)
    generated = model.generate(4, labels=[0, 1, 2, 0])
    on_backend(other, LOAD, tmp_path / "model.keras", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as out:
        for i, value in enumerate(expected):
            np.testing.assert_array_equal(out[f"arr_{i}"], value)
        assert np.abs(out["generated"].astype(int) - generated).max() <= 1
        assert out["counts"].tolist() == [2, 2, 4]


def test_both_optimizers_are_saved_and_go_on(tmp_path):
    model = compiled(
        keras.optimizers.Adam(3e-4, beta_1=0.4), "sgd", loss="hinge", discriminator_steps=2
    )
    fit(model)
    assert counts(model) == [1, 1, 2]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.generator_optimizer.beta_1 == 0.4
    assert isinstance(again.discriminator_optimizer, keras.optimizers.SGD)
    for ours, theirs in zip(
        values(model.optimizer.variables), values(again.optimizer.variables), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    again.run_eagerly = EAGER
    fit(again)
    assert counts(again) == [2, 2, 4]
