"""kgen's training steps: the function that `model.fit` calls, on TensorFlow or on JAX."""

import itertools
import math

import keras
from training_steps.common import IMAGE_GPT, images

import kgen


def fit_function(model, batch_size, loss, shape=(28, 28, 1)):
    """A step through the function that `model.fit` calls, of a compiled model."""
    parameters = sum(math.prod(v.shape) for v in model.trainable_variables)
    model.make_train_function()
    function = model.train_function
    data = images(batch_size, shape)
    if keras.backend.backend() == "jax":
        return jax_step(model, function, data, loss), parameters
    import tensorflow as tf

    batches = iter(tf.data.Dataset.from_tensors((data,)).repeat())
    return lambda: function(batches)[loss], parameters


def jax_step(model, function, data, loss):
    """A step that hands the state on to the next, as `model.fit` does on JAX."""
    import jax

    batches = itertools.repeat((jax.device_put(data),))
    groups = (model.trainable_variables, model.non_trainable_variables)
    groups += (model.optimizer.variables, model.metrics_variables)
    state = tuple([v.value for v in group] for group in groups)

    def step():
        nonlocal state
        logs, state = function(state, batches)
        return logs[loss]

    return step


def of_preset(name, batch_size, loss, **arguments):
    model = kgen.models.get(name).from_preset(f"{name}_28x28", **arguments)
    model.compile()
    return fit_function(model, batch_size, loss)


def vae(batch_size):
    return of_preset("vae", batch_size, "loss")


def dcgan(batch_size):
    return of_preset("dcgan", batch_size, "generator_loss")


def r3gan(batch_size):
    return of_preset("r3gan", batch_size, "generator_loss")


def r3gan_differences(batch_size):
    return of_preset("r3gan", batch_size, "generator_loss", penalty="finite_difference")


def dit(batch_size):
    return of_preset("dit", batch_size, "loss", dim=128, num_layers=6)


def flow_matching(batch_size):
    return of_preset("flow_matching", batch_size, "loss", prediction="velocity")


def image_gpt(batch_size):
    model = kgen.models.ImageGPT(**IMAGE_GPT)
    model.compile()
    return fit_function(model, batch_size, "loss", IMAGE_GPT["image_shape"])
