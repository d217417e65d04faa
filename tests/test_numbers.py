"""Every number that a model or its sampler takes, held to its range in one place."""

import inspect
import numbers

import numpy as np
import pytest

import kgen
from kgen.checks import Number, check_ints, check_seed

MODELS = kgen.models.registered()

#: Arguments that are numbers though their default, `None`, is none.
NUMBERS = ("num_classes", "latent_dim", "latent_channels", "num_colors", "discriminator_steps")


def is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


@pytest.mark.parametrize(
    "value", [0.5, np.float32(0.5), np.float16(0.5), np.array(0.5), np.array(0.5, "float32")]
)
def test_a_number_is_one_whatever_wrote_it(value):
    assert Number(above=0, most=1).check("top_p", value) == 0.5


@pytest.mark.parametrize(
    ("number", "value", "message"),
    [
        (Number(above=0), 0, "x must be above 0. Received: x=0"),
        (Number(above=0), "0.5", "x must be a number, above 0. Received: x='0.5'"),
        (Number(above=0), True, "x must be a number, above 0. Received: x=True"),
        (Number(above=0), None, "x must be a number, above 0. Received: x=None"),
        (Number(above=0), [1.0], "x must be a number, above 0. Received: x=[1.0]"),
        (Number(above=0), np.inf, "x must be a finite number, above 0. Received: x=inf"),
        (Number(above=0), 1e39, "x must be a finite number, above 0. Received: x=1e+39"),
        (Number(above=0), 1e-50, "x must be above 0. Received: x=1e-50"),
        (Number(), np.nan, "x must be a finite number. Received: x=nan"),
        (Number(least=0, below=1), 1, "x must be 0 or more and below 1. Received: x=1"),
        (Number(above=0, most=1, optional=True), 2, "above 0 and at most 1, or None. Received"),
        (Number(least=1, whole=True), 2.0, "x must be a positive int. Received: x=2.0"),
        (Number(least=1, whole=True), False, "x must be a positive int. Received: x=False"),
        (Number(least=2, most=9, whole=True), 1, "x must be an int of 2 to 9. Received: x=1"),
    ],
)
def test_what_is_none_is_refused(number, value, message):
    with pytest.raises(ValueError) as error:
        number.check("x", value)
    assert message in str(error.value)


def test_ints_and_seeds():
    check_ints(1, filters=np.int64(3))
    assert [check_seed(seed) for seed in (3, np.int32(3), 3.0, np.array(3))] == [3] * 4
    for seed in (None, "3", True, -1, 2**31, 0.5, np.nan, [1]):
        with pytest.raises(ValueError, match="A seed must be an integer in 0 to"):
            check_seed(seed)


@pytest.mark.parametrize("name", MODELS)
def test_every_number_of_a_constructor_has_its_range(name):
    model_class = MODELS[name]
    for argument, parameter in model_class.__signature__.parameters.items():
        if not (is_number(parameter.default) or argument in NUMBERS):
            continue
        # A check of its own forgets a bool among ints, and what is infinite among floats.
        for value in (-1, np.inf) if isinstance(parameter.default, float) else (True,):
            preset = {**model_class.presets[model_class.tiny_preset], argument: value}
            with pytest.raises(ValueError, match=f"{argument} must be|A seed must be") as error:
                model_class(**preset)
            assert f"{value!r}" in str(error.value)


@pytest.mark.parametrize("name", MODELS)
def test_every_number_of_a_sampler_has_its_range(name):
    parameters = inspect.signature(MODELS[name].sample).parameters
    found = MODELS[name].sampling_numbers
    assert found.keys() <= parameters.keys()
    assert {n for n, p in parameters.items() if is_number(p.default)} <= found.keys()
    for option, number in found.items():
        default = parameters[option].default
        assert number.check(option, default) == default
        for value in (True, np.inf, np.nan, "0.5", [0.5]):
            with pytest.raises(ValueError, match=f"{option} must be a"):
                number.check(option, value)
