"""What the log of two players says of their game, as warnings with a remedy."""

import math

from keras import ops

from kgen.training.step import whole_batch

#: Of an untrained generator all images are alike too. Measured on 8x8 and 28x28 digits after 500
#: steps: 0.3 (weight clipping, still rising) to 1.0 in good runs, 0.00 to 0.06 in collapsed ones.
#: The least spread within a class was 0.36 to 0.79 in the first five epochs of a good run on MNIST.
FIRST_STEP, _COLLAPSED = 500, 0.2

#: Gradients of runs on MNIST and CIFAR-10 that were looked at were 0.1 to 70 long.
_DIVERGED = 1000

#: Overfitting by the heuristic r_v of Karras et al., "Training generative adversarial networks with
#: limited data" (NeurIPS 2020; arXiv 2006.06676), equation 1: 0 is none, 1 complete. A judgement.
_MEMORISED = 0.7


def class_spread(real, fake, labels, num_classes):
    """The spread of generated images within a class relative to that of real ones, a scalar.

    For pixels `[B, H, W, C]` whose labels are int32 `[B]`: the least of the classes with two rows
    or more, near 0 where a class has one image. A generator may draw all classes and yet collapse
    in one, which the spread over all images does not show.
    """
    members = ops.one_hot(labels, num_classes, dtype="float32")
    counts = _of_whole_batch(ops.sum(members, axis=0))
    each = ops.maximum(counts, 1.0)
    spreads = []
    for pixels in (real, fake):
        rows = ops.reshape(pixels, (-1, math.prod(pixels.shape[1:])))
        sums = _of_whole_batch(ops.matmul(ops.transpose(members), rows))
        lengths = ops.sum(ops.square(rows), axis=1, keepdims=True)
        squares = _of_whole_batch(ops.sum(members * lengths, axis=0))
        mean = sums / each[:, None]
        variance = squares / each - ops.sum(ops.square(mean), axis=1)
        spreads.append(ops.sqrt(ops.maximum(variance / rows.shape[1], 0.0)))
    ratios = spreads[1] / ops.maximum(spreads[0], 1e-3)
    known = ops.logical_and(counts > 1, spreads[0] > 1e-3)
    # Of a spread that is above that of real images there is nothing to warn.
    return ops.min(ops.where(known, ops.minimum(ratios, 1.0), 1.0))


def _of_whole_batch(sums):
    return ops.sum(whole_batch(sums[None]), axis=0)


def warnings_of(logs, has_threshold):
    """The warnings, strings that begin with a name, of an epoch's logs.

    `logs` are those of `AdversarialGenerator`, by name; what is missing is not looked at.
    `has_threshold` is whether the discriminator's logits have a zero point.
    """
    found = []
    spread = min(logs.get(name, 1.0) for name in ("sample_spread", "val_sample_spread"))
    if spread < _COLLAPSED:
        found.append(
            f"mode collapse: the spread of generated images is {spread:.2g} times that of real "
            f"ones, under {_COLLAPSED} times: the generator draws nearly one image from all seeds. "
            "Try loss='relativistic' with its penalties, a smaller learning_rate, or the model "
            "R3GAN."
        )
    within = min(logs.get(name, 1.0) for name in ("class_spread", "val_class_spread"))
    if within < _COLLAPSED <= spread:
        found.append(
            f"class collapse: within some class the spread of generated images is {within:.2g} "
            f"times that of real ones, under {_COLLAPSED} times: of that class the generator draws "
            "nearly one image. Try augmentation=('colour', 'translation', 'cutout') with "
            "augmentation_probability='adaptive', r1_weight=1, or shorter training "
            "(kgen train --keep-best fd)."
        )
    accuracy = min(logs.get(name, 0.0) for name in ("real_accuracy", "fake_accuracy"))
    if accuracy > 0.999 and has_threshold:
        found.append(
            f"the discriminator wins: it tells {100 * accuracy:.4g} % of the images right, and "
            "the generator has little to learn from. Try r1_weight=1, instance_noise=0.1, a "
            "smaller learning rate in the discriminator_optimizer, or loss='relativistic'."
        )
    norms = ("generator_gradient_norm", "discriminator_gradient_norm")
    norm, name = max((logs.get(name, 0.0), name) for name in norms)
    if norm > _DIVERGED:
        found.append(
            f"divergence: {name} is {norm:.3g}, above {_DIVERGED:,}: the players drive each "
            "other away. Try a smaller learning_rate, r1_weight=1 and r2_weight=1, or begin "
            "again from an earlier checkpoint."
        )
    real = logs.get("real_score", 0.0)
    distance, gap = real - logs.get("fake_score", 0.0), real - logs.get("val_real_score", real)
    if distance > 0 and gap > _MEMORISED * distance:
        found.append(
            "memorisation: of what the discriminator's logits of training images are above "
            f"those of generated ones, held-out images lack {100 * gap / distance:.0f} %: it "
            "knows the training images by heart, and the generator will draw them. Try "
            "augmentation=('colour', 'translation', 'cutout'), lecam_weight=0.1, or train "
            "shorter: keep the best by EvaluateSamples (kgen train --keep-best fd)."
        )
    return found
