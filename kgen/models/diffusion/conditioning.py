"""What a denoising network is told beside the point: the time and the class."""

import numpy as np
from keras import layers, ops

#: From one radian to one ten-thousandth for a thousandth of the way, as in Vaswani et al. 2017.
_FREQUENCIES = (10_000.0 ** -(np.arange(128) / 128)).astype("float32")


class Conditioned:
    """Gives a network layers that make features of times and labels. Mixed in before `Network`."""

    def _build_condition(self, dim, num_classes):
        """Adds the layers, of so many features; `num_classes` is `None` without classes."""
        self.time = [
            layers.Dense(dim, activation="silu", name="time_in"),
            layers.Dense(dim, name="time_out"),
        ]
        self.label = None
        if num_classes is not None:
            self.label = layers.Embedding(num_classes + 1, dim, name="label")

    def condition(self, times, labels=None):
        """Features `[B, dim]` of times `[B]`, 0 to 1, and labels `[B]`; `num_classes` is none."""
        x = self.embed_times(times)
        for layer in self.time:
            x = layer(x)
        return x if self.label is None else x + self.label(labels)

    @staticmethod
    def embed_times(times):
        """Sines and cosines of times `[B]`, float32 `[B, 256]` whatever the precision."""
        angles = 1000 * ops.cast(times, "float32")[:, None] * _FREQUENCIES
        return ops.concatenate([ops.cos(angles), ops.sin(angles)], axis=-1)
