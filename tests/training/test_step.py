"""The training step on either backend against steps written out by hand in NumPy."""

import keras
import numpy as np
import pytest
from keras import ops

import kgen
from kgen import random
from kgen.image_generator import ImageGenerator
from kgen.training.step import batch_moments, input_gradient

SLOW = pytest.mark.slow

SEED = 5
BATCH = 8


@pytest.fixture(scope="module")
def images():
    """Two whole batches and one of 6 rows."""
    return np.random.default_rng(0).integers(0, 256, (22, 4, 4, 1), "uint8")


def brightness(images):
    return images.astype("float32").mean((1, 2, 3)) / 255


def noise_of(stream, step, rows):
    """What a step must draw: keyed by the model's seed, the step and the row."""
    step_seed = random.fold_in(random.fold_in(SEED, stream), step)
    seeds = random.row_seeds(ops.convert_to_numpy(step_seed).item(), rows)
    return ops.convert_to_numpy(random.normal(seeds, (1,)))[:, 0]


def batches_of(values, epochs=1):
    """Triples (step, values, first of the epoch)."""
    per_epoch = [values[i : i + BATCH] for i in range(0, len(values), BATCH)]
    return [
        (epoch * len(per_epoch) + i + 1, batch, i == 0)
        for epoch in range(epochs)
        for i, batch in enumerate(per_epoch)
    ]


# One optimizer ------------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="kgen_tests")
class Line(ImageGenerator):
    """Fits `w * brightness + b` to noise, and keeps a moving mean as batch norm does."""

    metric_names = ("loss", "largest")

    def __init__(self, image_shape=(4, 4, 1), num_classes=None, seed=SEED, **kwargs):
        super().__init__(image_shape, num_classes, seed, **kwargs)
        self.w = self.add_weight((), keras.initializers.Constant(0.5), name="w")
        self.b = self.add_weight((), keras.initializers.Constant(-0.2), name="b")
        self.moving_mean = self.add_weight((), "zeros", trainable=False, name="moving_mean")
        self.built = True

    def objective(self, batch, training):
        x = ops.mean(ops.cast(batch.images, "float32"), axis=(1, 2, 3)) / 255
        error = self.w * x + self.b - random.normal(batch.seeds, (1,))[:, 0]
        if training:
            mean, _ = batch_moments(x)
            self.moving_mean.assign(0.9 * self.moving_mean + 0.1 * mean)
        loss = ops.mean(ops.square(error))
        return loss, {"loss": loss, "largest": ops.max(ops.abs(error))}


def line_by_hand(images, epochs=1, momentum=0.0, learning_rate=0.1, clip=lambda g: g):
    """Weights, moving mean and the logs of every epoch, by gradients on paper."""
    parameters = np.array([0.5, -0.2])
    velocity, average, moving_mean = np.zeros(2), None, 0.0
    logs, weights = [], []
    for step, x, first in batches_of(brightness(images), epochs):
        error = parameters[0] * x + parameters[1] - noise_of(1, step, len(x))
        row = ((error**2).mean(), np.abs(error).max())
        if first:
            logs.append([])
            weights = []
        weights.append(len(x))
        logs[-1].append(row)
        gradient = clip(np.array([(2 * error * x).mean(), (2 * error).mean()]))
        velocity = momentum * velocity - learning_rate * gradient
        parameters = parameters + velocity
        average = 0.5 * average + 0.5 * parameters if step > 1 else parameters
        moving_mean = 0.9 * moving_mean + 0.1 * x.mean()
    means = [np.average(epoch, axis=0, weights=weights) for epoch in logs]
    return parameters, average, moving_mean, means


def line_losses(parameters, images):
    """What `evaluate` must give."""
    rows, weights = [], []
    for step, x, _ in batches_of(brightness(images)):
        error = parameters[0] * x + parameters[1] - noise_of(2, step, len(x))
        rows.append(((error**2).mean(), np.abs(error).max()))
        weights.append(len(x))
    return np.average(rows, axis=0, weights=weights)


def fit_line(images, optimizer=None, epochs=2, **kwargs):
    callbacks = kwargs.pop("callbacks", None)
    model = Line()
    model.compile(optimizer or keras.optimizers.SGD(0.1), **kwargs)
    history = model.fit(
        images,
        batch_size=BATCH,
        epochs=epochs,
        shuffle=False,
        callbacks=callbacks,
        validation_data=images[:13],
        verbose=0,
    ).history
    return model, history


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=1e-6)


def values(*variables):
    return [ops.convert_to_numpy(v).item() for v in variables]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="plain"),
        pytest.param({"steps_per_execution": 2}, id="two_steps"),
        pytest.param({"steps_per_execution": 5}, id="more_steps_than_batches", marks=SLOW),
        pytest.param({"run_eagerly": True}, id="eager", marks=SLOW),
    ],
)
def test_one_optimizer(images, options):
    model, history = fit_line(images, keras.optimizers.SGD(0.1, momentum=0.9), **options)
    parameters, _, moving_mean, means = line_by_hand(images, 2, momentum=0.9)
    close(values(model.w, model.b), parameters)
    close(values(model.moving_mean), moving_mean)
    assert values(model.training_steps, model.optimizer.iterations) == [6, 6]
    close(np.transpose([history["loss"], history["largest"]]), means)
    expected = line_losses(parameters, images[:13])
    close([history["val_loss"][-1], history["val_largest"][-1]], expected)
    close(model.evaluate(images[:13], batch_size=BATCH, verbose=0), expected)
    again = model.evaluate(images[:13], batch_size=BATCH, verbose=0, return_dict=True)
    close([again["loss"], again["largest"]], expected)


@pytest.mark.parametrize(
    "name, clip",
    [
        pytest.param("clipvalue", lambda g: np.clip(g, -0.1, 0.1), marks=SLOW),
        # Variable by variable.
        pytest.param("clipnorm", lambda g: g * np.minimum(1, 0.1 / np.abs(g)), marks=SLOW),
        ("global_clipnorm", lambda g: g * min(1, 0.1 / np.linalg.norm(g))),
    ],
)
def test_clipping(images, name, clip):
    model, _ = fit_line(images, keras.optimizers.SGD(0.1, **{name: 0.1}))
    close(values(model.w, model.b), line_by_hand(images, 2, clip=clip)[0])


def test_averaged_weights(images):
    optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    model, history = fit_line(images, optimizer, epochs=1, callbacks=[swap])
    _, average, _, _ = line_by_hand(images)
    close(values(model.w, model.b), average)
    close(history["val_loss"], line_losses(average, images[:13])[0])


def test_loss_scale_changes_nothing(images):
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=1024.0)
    model, _ = fit_line(images, scaled)
    close(values(model.w, model.b), line_by_hand(images, 2)[0])


def test_overflowing_step_is_skipped(images):
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=3e38)
    model, history = fit_line(images[:BATCH], scaled, epochs=1)
    close(values(model.w, model.b), [0.5, -0.2])
    close(values(scaled.dynamic_scale), 1.5e38)
    assert values(scaled.inner_optimizer.iterations, model.training_steps) == [0, 1]
    assert np.isfinite(history["loss"]).all()


def test_mixed_float16_scales_the_loss():
    model = kgen.models.VAE(**kgen.models.VAE.presets["vae_tiny"], dtype="mixed_float16")
    model.compile()
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    before = model.get_weights()
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1), "uint8")
    history = model.fit(images, batch_size=8, epochs=10, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    # The first steps overflow, and the scale goes down until they do not.
    assert 0 < values(model.optimizer.iterations)[0] <= values(model.training_steps)[0] == 20
    after = model.get_weights()
    assert all((a != b).any() for a, b in zip(before, after, strict=True) if a.ndim > 1)


@keras.saving.register_keras_serializable(package="kgen_tests")
class LookUp(ImageGenerator):
    """Its loss looks up row 0 of a table four times and row 1 once."""

    def __init__(self, image_shape=(4, 4, 1), num_classes=None, seed=SEED, **kwargs):
        super().__init__(image_shape, num_classes, seed, **kwargs)
        self.table = self.add_weight((3, 1), "zeros", name="table")
        self.built = True

    def objective(self, batch, training):
        loss = ops.sum(ops.take(self.table, np.array([0, 0, 0, 0, 1]), axis=0))
        return loss, {"loss": loss}


def test_adam_sees_the_whole_gradient_of_a_look_up(images):
    """Its first step is the learning rate, whatever the size of the gradient."""
    model = LookUp()
    model.compile(keras.optimizers.Adam(0.5))
    model.fit(images[:8], batch_size=8, verbose=0)
    table = ops.convert_to_numpy(model.table)
    np.testing.assert_allclose(table, [[-0.5], [-0.5], [0]], rtol=1e-4)


def test_dataset_of_unknown_length(images):
    """Reaching the end of a dataset is no step."""
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices(images).batch(BATCH).filter(lambda batch: True)
    for steps in (1, 2):
        model = Line()
        model.compile(keras.optimizers.SGD(0.1), steps_per_execution=steps)
        model.fit(data, epochs=2, verbose=0)
        close(values(model.w, model.b), line_by_hand(images, 2)[0])
        assert values(model.training_steps, model.optimizer.iterations) == [6, 6]


# What Keras's interface promises ----------------------------------------------------


def test_regularizers_are_added_to_what_is_minimised(images):
    model = Line()
    model.w.regularizer = keras.regularizers.L2(0.3)
    model.compile(keras.optimizers.SGD(0.1))
    history = model.fit(images[:BATCH], batch_size=BATCH, shuffle=False, verbose=0).history
    [(_, x, _)] = batches_of(brightness(images[:BATCH]))
    error = 0.5 * x - 0.2 - noise_of(1, 1, BATCH)
    gradient = np.array([(2 * error * x).mean() + 2 * 0.3 * 0.5, (2 * error).mean()])
    close(values(model.w, model.b), [0.5, -0.2] - 0.1 * gradient)
    close(history["loss"], (error**2).mean())


@keras.saving.register_keras_serializable(package="kgen_tests")
class Adding(ImageGenerator):
    """A layer of it has an activity regularizer."""

    def __init__(self, image_shape=(4, 4, 1), num_classes=None, seed=SEED, **kwargs):
        super().__init__(image_shape, num_classes, seed, **kwargs)
        self.dense = keras.layers.Dense(1, activity_regularizer="l2", name="penalised")
        self.dense.build((None, 16))
        self.built = True

    def objective(self, batch, training):
        x = ops.reshape(ops.cast(batch.images, "float32"), (-1, 16))
        loss = ops.mean(ops.square(self.dense(x)))
        return loss, {"loss": loss}


def test_added_losses_are_refused(images):
    model = Adding()
    model.compile("sgd")
    for use in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=r"add_loss and activity regularizers.*penalised"):
            use(images, batch_size=BATCH, verbose=0)


def test_weights_are_refused(images):
    model, weights = Line(), np.ones(22)
    model.compile("sgd")
    for use in (
        lambda: model.fit(images, class_weight={0: 2.0}),
        lambda: model.fit(images, sample_weight=weights),
        lambda: model.fit(images, validation_data=(images, None, weights)),
        lambda: model.evaluate(images, sample_weight=weights),
        lambda: model.train_on_batch(images, sample_weight=weights),
        lambda: model.train_on_batch(images, class_weight={0: 2.0}),
        lambda: model.test_on_batch(images, sample_weight=weights),
    ):
        with pytest.raises(ValueError, match="_weight must be None: the losses here"):
            use()


@pytest.mark.parametrize("eager", [False, True])
def test_single_batches_are_steps_of_fit(images, eager):
    model, other = Line(), Line()
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=eager)
    other.compile(keras.optimizers.SGD(0.1))
    logs = [model.train_on_batch(x, return_dict=True) for x in (images[:8], images[8:16])]
    history = other.fit(images[:16], batch_size=8, shuffle=False, verbose=0).history
    close(values(model.w, model.b), values(other.w, other.b))
    close(np.mean([log["loss"] for log in logs]), history["loss"][0])
    model.test_steps.assign(0)
    close(model.test_on_batch(images[:8]), other.evaluate(images[:8], batch_size=8, verbose=0))
    with pytest.raises(ValueError, match="uint8"):
        model.train_on_batch(images[:8] / 255)


def test_what_fit_takes_as_keras_does(images):
    model, other, seen = Line(), Line(), []
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True, loss=None, metrics=None)
    other.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    common = {"batch_size": None, "shuffle": False, "verbose": 0}
    history = model.fit(images, validation_split=0.25, callbacks=callback, **common).history
    validation = (images[16:], None)
    expected = other.fit(images[:16], validation_data=validation, **common).history
    assert seen == [0] and history == expected
    several = keras.callbacks.CallbackList([callback], add_history=True, model=model)
    model.fit(images, callbacks=several, **common)
    assert seen == [0, 0]
    model.evaluate(images, batch_size=None, verbose=0)
    for share in (1.0, 0.99, -0.5):
        with pytest.raises(ValueError, match=f"validation_split={share} of 22 images"):
            model.fit(images, validation_split=share)
    with pytest.raises(ValueError, match="give validation_data"):
        model.fit(kgen.data.Split(images).batches(8), validation_split=0.5)
    with pytest.raises(ValueError, match=r"losses and metrics of its own .* metrics=.'mse'"):
        model.compile("sgd", metrics=["mse"])
    with pytest.raises(TypeError, match="unexpected keyword argument 'lerning_rate'"):
        model.compile(lerning_rate=1.0)


def test_what_was_compiled_is_what_trains(images):
    model, optimizer = Line(), keras.optimizers.SGD(0.1)
    model.compile(optimizer)
    model.trainable = False
    for train in (model.fit, model.train_on_batch):
        with pytest.raises(ValueError, match="trainable was changed after compile"):
            train(images)
    with pytest.raises(ValueError, match="The optimizer was built for other variables"):
        model.compile(optimizer)
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(images, batch_size=BATCH, verbose=0)
    close(values(model.w, model.b), [0.5, -0.2])
    assert values(model.training_steps) == [2]


def test_all_arguments_of_compile_are_saved(tmp_path):
    model = Line(dtype="mixed_float16")
    options = {"run_eagerly": True, "auto_scale_loss": False, "steps_per_execution": 2}
    model.compile("sgd", jit_compile=False, **options)
    model.save(tmp_path / "line.keras")
    loaded = keras.saving.load_model(tmp_path / "line.keras")
    assert loaded.get_compile_config() == model.get_compile_config()
    assert type(loaded.optimizer) is keras.optimizers.SGD and loaded.run_eagerly


# Two optimizers -----------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="kgen_tests")
class Duel(ImageGenerator):
    """A generator of one number (noise + g) and a critic d * x**2, with a gradient penalty."""

    metric_names = ("critic_loss", "generator_loss")

    def __init__(self, image_shape=(4, 4, 1), num_classes=None, seed=SEED, **kwargs):
        super().__init__(image_shape, num_classes, seed, **kwargs)
        self.g = self.add_weight((), keras.initializers.Constant(0.3), name="g")
        self.d = self.add_weight((), keras.initializers.Constant(0.7), name="d")
        self.average = self.add_weight((), "zeros", trainable=False, name="average")
        self.built = True

    def compile(self, generator_optimizer, critic_optimizer, **kwargs):
        self.generator_optimizer, self.critic_optimizer = generator_optimizer, critic_optimizer
        both = keras.optimizers.MultiOptimizer(
            lambda v: generator_optimizer if v is self.g else critic_optimizer
        )
        self._compile(both, "auto", kwargs.get("steps_per_execution", 1), False, True)
        self._compile_arguments = {
            "generator_optimizer": generator_optimizer,
            "critic_optimizer": critic_optimizer,
        }

    def update(self, batch, minimize):
        real = ops.mean(ops.cast(batch.images, "float32"), axis=(1, 2, 3)) / 255
        noise = random.normal(batch.seeds, (1,))[:, 0]

        def critic():
            penalty = ops.mean(ops.square(input_gradient(lambda x: self.d * ops.square(x), real)))
            score = ops.mean(self.d * ops.square(noise + self.g)) - ops.mean(self.d * real**2)
            return score + penalty, {"critic_loss": score + penalty}

        def generator():
            loss = -ops.mean(self.d * ops.square(noise + self.g))
            return loss, {"generator_loss": loss}

        logs = minimize(critic, self.critic_optimizer, [self.d])
        logs |= minimize(generator, self.generator_optimizer, [self.g])
        self.average.assign(0.9 * self.average + 0.1 * self.g)
        return logs


class Momentum:
    def __init__(self, learning_rate, momentum):
        self.learning_rate, self.momentum, self.velocity = learning_rate, momentum, 0.0

    def __call__(self, value, gradient):
        self.velocity = self.momentum * self.velocity - self.learning_rate * gradient
        return value + self.velocity


def duel_by_hand(images, epochs):
    g, d, average = 0.3, 0.7, 0.0
    move_generator, move_critic = Momentum(0.05, 0.0), Momentum(0.02, 0.9)
    logs = []
    for step, x, first in batches_of(brightness(images), epochs):
        noise = noise_of(1, step, len(x))
        penalty = ((2 * d * x) ** 2).mean()
        critic = (d * (noise + g) ** 2).mean() - (d * x**2).mean() + penalty
        # the penalty's gradient is one of a gradient: 2 (2 d x) (2 x)
        slope = ((noise + g) ** 2).mean() - (x**2).mean() + (8 * d * x**2).mean()
        d = move_critic(d, slope)
        generator = -(d * (noise + g) ** 2).mean()
        g = move_generator(g, -(2 * d * (noise + g)).mean())
        average = 0.9 * average + 0.1 * g
        if first:
            logs.append([])
        logs[-1].append((critic, generator))
    weights = [len(x) for _, x, _ in batches_of(images)]
    return (g, d, average), [np.average(epoch, axis=0, weights=weights) for epoch in logs]


def duel_optimizers():
    return keras.optimizers.SGD(0.05), keras.optimizers.SGD(0.02, momentum=0.9)


@pytest.mark.parametrize("steps_per_execution", [pytest.param(1, marks=SLOW), 2])
def test_two_optimizers(images, steps_per_execution, tmp_path):
    model = Duel()
    model.compile(*duel_optimizers(), steps_per_execution=steps_per_execution)
    arguments = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
    history = model.fit(images, epochs=1, **arguments).history
    # Both optimizers' momentum, the counters and the moving average go through a file.
    model.save(tmp_path / "duel.keras")
    model = keras.saving.load_model(tmp_path / "duel.keras")
    more = model.fit(images, epochs=2, initial_epoch=1, **arguments).history
    expected, means = duel_by_hand(images, 2)
    close(values(model.g, model.d, model.average), expected)
    logs = [[h["critic_loss"][0], h["generator_loss"][0]] for h in (history, more)]
    close(logs, means)
    assert values(model.generator_optimizer.iterations, model.critic_optimizer.iterations) == [6, 6]


def test_regularizers_go_with_their_player(images):
    model, other = Duel(), Duel()
    model.d.regularizer = keras.regularizers.L2(0.3)
    for duel in (model, other):
        duel.compile(keras.optimizers.SGD(0.05), keras.optimizers.SGD(0.02))
        duel.fit(images[:BATCH], batch_size=BATCH, shuffle=False, verbose=0)
    # The critic moves first; the generator moves against it, and pays for no weight of its.
    difference = values(model.d)[0] - values(other.d)[0]
    close(difference, -0.02 * 2 * 0.3 * 0.7)
    noise = noise_of(1, 1, BATCH)
    slope = -(2 * (noise + 0.3)).mean()
    close(values(model.g)[0] - values(other.g)[0], -0.05 * slope * difference)


def test_input_gradient_is_that_of_each_row():
    x = np.random.default_rng(0).normal(size=(3, 2, 2, 1)).astype("float32")
    gradient = input_gradient(lambda x: ops.sum(x**3, axis=(1, 2, 3)), ops.convert_to_tensor(x))
    close(ops.convert_to_numpy(gradient), 3 * x**2)


def test_batch_moments():
    x = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    mean, variance = batch_moments(ops.convert_to_tensor(x))
    close(ops.convert_to_numpy(mean), x.mean(0))
    close(ops.convert_to_numpy(variance), x.var(0))
