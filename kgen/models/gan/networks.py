"""What the networks of both players share: how they are told the class, and how they judge."""

import keras
from keras import layers

from kgen.layers.conditioning import class_input, joined

#: How a discriminator judges whether an image and its class belong together.
CLASS_HEADS = ("projection", "auxiliary")


def latent_inputs(latent_dim, num_classes):
    """A generator's inputs, and the tensor `[B, latent_dim + num_classes]` of all that they say.

    The class is a one-hot vector beside the latent one: Mirza and Osindero, "Conditional
    generative adversarial nets" (2014; arXiv 1411.1784), section 3.2.
    """
    latent, one_hot = keras.Input((latent_dim,), name="latent"), class_input(num_classes)
    if not one_hot:
        return latent, latent
    # As long as the latent vector is on average, or training would pass over it.
    # (Not by Rescaling, which needs TensorFlow on every backend.)
    return joined(latent, one_hot), layers.Concatenate()([latent, one_hot[0] * latent_dim**0.5])


def discriminator(image, features, num_classes, class_head, dense):
    """The Keras model from pixels, the input `image`, to logits, by way of `features` `[B, F]`.

    With classes its head is

    - `"projection"`, for which the model takes one-hot labels too: of one more logit for each
      class, that of the label is added, so that it judges image and class in one. Miyato and
      Koyama, "cGANs with projection discriminator" (ICLR 2018; arXiv 1802.05637), equation 3. It
      gives `[B, 1]`;
    - `"auxiliary"`: beside its own logit it says which class it sees, by the other columns of
      `[B, 1 + num_classes]`. Odena, Olah and Shlens, "Conditional image synthesis with auxiliary
      classifier GANs" (ICML 2017; arXiv 1610.09585), section 3.

    `dense(units, **arguments)` makes a dense layer. What a loss may look into is called "features".
    """
    features = layers.Identity(name="features")(features)
    logits = dense(1, dtype="float32")(features)
    inputs = image
    if num_classes is not None and class_head == "auxiliary":
        classes = dense(num_classes, dtype="float32")(features)
        logits = layers.Concatenate(dtype="float32")([logits, classes])
    elif num_classes is not None:
        one_hot = class_input(num_classes)
        directions = dense(num_classes, use_bias=False, dtype="float32")(features)
        projection = layers.Dot(axes=1, dtype="float32")([directions, *one_hot])
        logits = layers.Add(dtype="float32")([logits, projection])
        inputs = joined(image, one_hot)
    return keras.Model(inputs, logits, name="discriminator")


def doubled(sides, filters):
    """Filters of feature maps, the largest first: doubled as the sides halve, up to 8 times."""
    return [min(filters * 2**level, 8 * filters) for level in range(len(sides))]


def features_of(discriminator):
    """The part of a discriminator that gives its "features", a Keras model of the same inputs.

    A `ValueError` where it has no layer of that name.
    """
    try:
        layer = discriminator.get_layer("features")
    except (AttributeError, ValueError):
        raise ValueError(
            "feature_matching_weight needs a discriminator that is a graph of layers with one "
            "that is named 'features', what its logits are made of. Received: discriminator="
            f"{discriminator.name!r} without"
        ) from None
    return keras.Model(discriminator.inputs, layer.output)


def check_sides(model):
    """Raises a ValueError where a convolutional model's images cannot be halved, or are large."""
    if any(side % 4 or not 8 <= side <= 128 for side in model.image_shape[:2]):
        raise ValueError(
            f"{type(model).__name__} takes images whose sides divide by 4 and are 8 to 128 pixels. "
            f"Received: image_shape={model.image_shape}"
        )
