"""Adversarial losses: pairs of pure functions of a discriminator's logits, in float32.

`D` below is the discriminator's output before any sigmoid, a logit (or, for the
Wasserstein losses, the critic's score); `x` is a real image and `G(z)` a generated one.
"""

from collections.abc import Callable
from typing import NamedTuple

from keras import ops

from kgen.checks import unknown_name


class AdversarialLoss(NamedTuple):
    """What the two players minimise, of logits `[B]`: scalars `discriminator(real, fake)` and
    `generator(fake)`, or `generator(fake, real)` where it is `paired`. Above the `threshold` an
    image counts as real; `None` where a logit has no zero point, as a critic's score has none.
    """

    discriminator: Callable
    generator: Callable
    threshold: float | None
    paired: bool = False


def get(name):
    """The `AdversarialLoss` with a name, one of `LOSSES`; a `ValueError` where there is none."""
    if name not in LOSSES:
        raise ValueError(unknown_name("loss", str(name), LOSSES))
    return LOSSES[name]


def cross_entropy_discriminator(real, fake):
    """-E[log sigmoid(D(x))] - E[log(1 - sigmoid(D(G(z))))].

    Goodfellow et al., "Generative adversarial nets" (NIPS 2014; arXiv 1406.2661),
    equation 1, as a loss. -log(sigmoid(l)) is softplus(-l), which never overflows.
    """
    return ops.mean(ops.softplus(-_float(real))) + ops.mean(ops.softplus(_float(fake)))


def smoothing(real):
    """E[D(x)]: what one-sided label smoothing by s adds to the discriminator's loss, s times.

    Salimans et al., "Improved techniques for training GANs" (NIPS 2016; arXiv 1606.03498), section
    3.4: real images have the label 1 - s, and generated ones keep 0. The cross-entropy of a logit l
    with 1 - s is softplus(-l) + s l.
    """
    return ops.mean(_float(real))


def minimax_generator(fake):
    """E[log(1 - sigmoid(D(G(z))))]: Goodfellow et al. (2014), equation 1.

    It saturates: where the discriminator is sure, the gradient vanishes.
    """
    return -ops.mean(ops.softplus(_float(fake)))


def non_saturating_generator(fake):
    """-E[log sigmoid(D(G(z)))]: Goodfellow et al. (2014), section 3, last paragraph."""
    return ops.mean(ops.softplus(-_float(fake)))


def least_squares_discriminator(real, fake):
    """E[(D(x) - 1)**2] / 2 + E[D(G(z))**2] / 2.

    Mao et al., "Least squares generative adversarial networks" (ICCV 2017; arXiv
    1611.04076), equation 9: a = 0, b = c = 1.
    """
    return 0.5 * (ops.mean(ops.square(_float(real) - 1)) + ops.mean(ops.square(_float(fake))))


def least_squares_generator(fake):
    """E[(D(G(z)) - 1)**2] / 2: Mao et al. (2017), equation 9."""
    return 0.5 * ops.mean(ops.square(_float(fake) - 1))


def wasserstein_discriminator(real, fake):
    """E[D(G(z))] - E[D(x)].

    Arjovsky, Chintala and Bottou, "Wasserstein GAN" (ICML 2017; arXiv 1701.07875),
    equation 2 and algorithm 1, line 5, as a loss. The critic must be kept Lipschitz: by
    clipping its weights (line 7), or by `gradient_penalty`.
    """
    return ops.mean(_float(fake)) - ops.mean(_float(real))


def wasserstein_generator(fake):
    """-E[D(G(z))]: Arjovsky, Chintala and Bottou (2017), algorithm 1, line 10."""
    return -ops.mean(_float(fake))


def hinge_discriminator(real, fake):
    """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))].

    Lim and Ye, "Geometric GAN" (2017; arXiv 1705.02894); Miyato et al., "Spectral
    normalization for generative adversarial networks" (ICLR 2018; arXiv 1802.05957),
    equation 16. The generator's loss is Wasserstein's (equation 17).
    """
    return ops.mean(ops.relu(1 - _float(real))) + ops.mean(ops.relu(1 + _float(fake)))


def relativistic_discriminator(real, fake):
    """E[-log sigmoid(D(x) - D(G(z)))]: a real image is to be more real than a generated one.

    Jolicoeur-Martineau, "The relativistic discriminator: a key element missing from standard GAN"
    (ICLR 2019; arXiv 1807.00734), RSGAN; Huang et al., "The GAN is dead; long live the GAN! A
    modern baseline GAN" (NeurIPS 2024; arXiv 2501.05441), equation 2: no logit is good in itself,
    so that no mode can be left out for another. It converges with `zero_centred_penalty` of real
    and of generated images.
    """
    return ops.mean(ops.softplus(_float(fake) - _float(real)))


def relativistic_generator(fake, real):
    """E[-log sigmoid(D(G(z)) - D(x))]: Jolicoeur-Martineau (2019), RSGAN."""
    return ops.mean(ops.softplus(_float(real) - _float(fake)))


def zero_centred_penalty(gradients):
    """E[|g|**2] / 2, of the gradients `[B, ...]` of every image's own logit with respect to it.

    R1 of real images and R2 of generated ones: Mescheder, Geiger and Nowozin, "Which training
    methods for GANs do actually converge?" (ICML 2018; arXiv 1801.04406), equations 9 and 10,
    without the weight.
    """
    gradients = _float(gradients)
    return 0.5 * ops.mean(
        ops.sum(ops.square(gradients), axis=tuple(range(1, len(gradients.shape))))
    )


def finite_difference_penalty(logits, moved, distance):
    """E[((D(x + d n) - D(x)) / d)**2] / 2, of the logits `[B]` of images and of images `moved`.

    With standard normal n it is `zero_centred_penalty` for small d, without a derivative of a
    derivative: the expectation of (g . n)**2 over n is |g|**2.
    """
    slopes = (_float(moved) - _float(logits)) / distance
    return 0.5 * ops.mean(ops.square(slopes))


def lecam(real, fake, real_anchor, fake_anchor):
    """E[(D(x) - a_F)**2] + E[(D(G(z)) - a_R)**2]: no logit may go far from what others have.

    Tseng et al., "Regularizing generative adversarial networks under limited data" (CVPR 2021;
    arXiv 2104.03310), equation 5; the anchors are moving averages of the mean logits of real and of
    generated images. It is for data of few images, which a discriminator else knows by heart.
    """
    return ops.mean(ops.square(_float(real) - fake_anchor)) + ops.mean(
        ops.square(_float(fake) - real_anchor)
    )


def feature_matching(real, fake):
    """|E f(x) - E f(G(z))|**2, of the mean features `[F]` of real and of generated images.

    Salimans et al., "Improved techniques for training GANs" (NIPS 2016; arXiv 1606.03498), section
    3.1: f is what an intermediate layer of the discriminator makes of an image.
    """
    return ops.sum(ops.square(_float(real) - _float(fake)))


def class_cross_entropy(logits, labels):
    """-E[log p(c | x)], of logits `[B, num_classes]` and int labels `[B]`.

    Odena, Olah and Shlens, "Conditional image synthesis with auxiliary classifier GANs" (ICML 2017;
    arXiv 1610.09585), equation 3, which both players minimise, of one kind of images.
    """
    logits = _float(logits)
    right = ops.one_hot(labels, logits.shape[-1], dtype="float32")
    return -ops.mean(ops.sum(right * ops.log_softmax(logits, axis=-1), axis=-1))


def gradient_penalty(gradients):
    """E[(|g| - 1)**2], the penalty on the gradients `[B, ...]` of every image's own critic's score.

    Gulrajani et al., "Improved training of Wasserstein GANs" (NIPS 2017; arXiv
    1704.00028), equation 3, without the weight. The gradients are taken at random points
    on the lines between real and generated images (section 4).
    """
    squared = _squared_norms(gradients)
    # A square root's slope is infinite at 0, where a dead critic's gradients are.
    return ops.mean(ops.square(ops.sqrt(squared + 1e-12) - 1))


#: Dict of name to `AdversarialLoss`.
LOSSES = {
    "minimax": AdversarialLoss(cross_entropy_discriminator, minimax_generator, 0.0),
    "non_saturating": AdversarialLoss(cross_entropy_discriminator, non_saturating_generator, 0.0),
    "least_squares": AdversarialLoss(least_squares_discriminator, least_squares_generator, 0.5),
    "wasserstein": AdversarialLoss(wasserstein_discriminator, wasserstein_generator, None),
    "wasserstein_gp": AdversarialLoss(wasserstein_discriminator, wasserstein_generator, None),
    "hinge": AdversarialLoss(hinge_discriminator, wasserstein_generator, 0.0),
    "relativistic": AdversarialLoss(
        relativistic_discriminator, relativistic_generator, None, paired=True
    ),
}

#: Those whose discriminator minimises a cross-entropy, with labels that can be smoothed.
CROSS_ENTROPIES = ("minimax", "non_saturating")


def _float(x):
    return ops.cast(x, "float32")


def _squared_norms(gradients):
    """|g|**2 of every row, `[B]`."""
    return ops.sum(ops.square(_float(gradients)), axis=tuple(range(1, len(gradients.shape))))
