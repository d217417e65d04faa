"""Blocks of convolutional encoders and decoders."""

from keras import layers


def feature_maps(image_shape):
    """Sides of the feature maps, the largest first: halved while they stay even and at least 4."""
    sides = [tuple(image_shape[:2])]
    while all(side % 2 == 0 and side >= 8 for side in sides[-1]):
        sides.append((sides[-1][0] // 2, sides[-1][1] // 2))
    return sides


def residual_block(x, filters):
    """(B, H, W, filters) to the same: two convolutions around which the input goes on."""
    y = layers.Activation("silu")(x)
    y = layers.Conv2D(filters, 3, padding="same")(y)
    y = layers.Activation("silu")(y)
    y = layers.Conv2D(filters, 3, padding="same", kernel_initializer="zeros")(y)
    return layers.Add()([x, y])
