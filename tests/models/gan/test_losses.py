import math

import keras
import numpy as np
import pytest
from keras import ops

from kgen.models.gan import losses as adversarial

REAL = [2.0, -0.5]
FAKE = [1.0, -3.0]


def softplus(x):
    return math.log1p(math.exp(x))


# Worked out by hand from the papers' equations for the logits above.
CROSS_ENTROPY = (softplus(-2) + softplus(0.5)) / 2 + (softplus(1) + softplus(-3)) / 2
EXPECTED = {
    "minimax": (CROSS_ENTROPY, -(softplus(1) + softplus(-3)) / 2),
    "non_saturating": (CROSS_ENTROPY, (softplus(-1) + softplus(3)) / 2),
    "least_squares": ((1 + 2.25) / 4 + (1 + 9) / 4, (0 + 16) / 4),
    "wasserstein": (-1.0 - 0.75, 1.0),
    "wasserstein_gp": (-1.0 - 0.75, 1.0),
    "hinge": ((0 + 1.5) / 2 + (2 + 0) / 2, 1.0),
    "relativistic": ((softplus(-1) + softplus(-2.5)) / 2, (softplus(1) + softplus(2.5)) / 2),
}


def tensor(values):
    return ops.convert_to_tensor(np.array(values, "float32"))


def of_generator(loss, fake, real):
    return loss.generator(fake, real) if loss.paired else loss.generator(fake)


def test_every_loss_is_listed_here():
    assert EXPECTED.keys() == adversarial.LOSSES.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_losses_by_hand(name):
    loss = adversarial.get(name)
    discriminator, generator = EXPECTED[name]
    assert float(loss.discriminator(tensor(REAL), tensor(FAKE))) == pytest.approx(
        discriminator, rel=1e-6
    )
    assert float(of_generator(loss, tensor(FAKE), tensor(REAL))) == pytest.approx(
        generator, rel=1e-6
    )


def test_cross_entropy_is_the_textbook_formula():
    def sigmoid(x):
        return 1 / (1 + np.exp(-np.array(x)))

    discriminator = -np.log(sigmoid(REAL)).mean() - np.log(1 - sigmoid(FAKE)).mean()
    assert EXPECTED["minimax"][0] == pytest.approx(discriminator)
    assert EXPECTED["minimax"][1] == pytest.approx(np.log(1 - sigmoid(FAKE)).mean())
    assert EXPECTED["non_saturating"][1] == pytest.approx(-np.log(sigmoid(FAKE)).mean())


@pytest.mark.parametrize("name", adversarial.CROSS_ENTROPIES)
def test_smoothing_is_a_label_below_1(name):
    """By Keras's own cross-entropy, whose labels are ours: 1 - s for real images, 0 for others."""
    cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True)
    expected = cross_entropy(tensor([0.7, 0.7]), tensor(REAL))
    expected = expected + cross_entropy(tensor([0.0, 0.0]), tensor(FAKE))
    loss = adversarial.get(name).discriminator(tensor(REAL), tensor(FAKE))
    smoothed = loss + 0.3 * adversarial.smoothing(tensor(REAL))
    assert float(smoothed) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("name", ["minimax", "non_saturating"])
def test_large_logits_stay_finite(name):
    loss = adversarial.get(name)
    sure, wrong = tensor([1000.0]), tensor([-1000.0])
    assert float(loss.discriminator(sure, wrong)) == 0.0
    assert float(loss.discriminator(wrong, sure)) == 2000.0
    assert float(loss.generator(wrong)) == {"minimax": 0.0, "non_saturating": 1000.0}[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_half_precision_logits_give_float32(name):
    loss = adversarial.get(name)
    real, fake = (ops.cast(tensor(values), "bfloat16") for values in (REAL, FAKE))
    for value in (loss.discriminator(real, fake), of_generator(loss, fake, real)):
        assert ops.shape(value) == () and value.dtype in ("float32", np.float32)


def test_gradient_penalty_by_hand():
    # Norms 5, 1 and 0: (5 - 1)**2, 0 and 1.
    gradients = np.zeros((3, 2, 2, 1), "float32")
    gradients[0, 0, 0], gradients[0, 1, 1], gradients[1, 0, 1] = 3, 4, 1
    penalty = float(adversarial.gradient_penalty(tensor(gradients)))
    assert penalty == pytest.approx(17 / 3, rel=1e-5)


def test_zero_centred_penalty_by_hand():
    gradients = np.zeros((2, 2, 2, 1), "float32")  # of norms 5 and 1
    gradients[0, 0, 0], gradients[0, 1, 1], gradients[1, 0, 1] = 3, 4, 1
    penalty = float(adversarial.zero_centred_penalty(tensor(gradients)))
    assert penalty == pytest.approx((25 + 1) / 2 / 2, rel=1e-6)


def test_finite_differences_are_the_penalty_on_average():
    """Of a linear critic exactly, by the mean over noise; by hand for what is given."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=12)
    noise = rng.normal(size=(100_000, 12))
    logits = np.zeros(len(noise))
    penalty = adversarial.finite_difference_penalty(
        tensor(logits), tensor(0.01 * noise @ weight), 0.01
    )
    exact = adversarial.zero_centred_penalty(tensor(np.tile(weight, (2, 1))))
    assert float(penalty) == pytest.approx(float(exact), rel=0.02)
    assert float(
        adversarial.finite_difference_penalty(tensor([1.0, 2.0]), tensor([1.5, 2.0]), 0.5)
    ) == pytest.approx(0.25)


def test_an_unknown_loss_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'wasserstein_gp'"):
        adversarial.get("wasserstein-gp")
