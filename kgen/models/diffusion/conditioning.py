"""What a denoising network is told beside the point: the time and the class."""

import numpy as np
from keras import layers, ops

#: From one radian to one ten-thousandth for a thousandth of the way, as in Vaswani et al. 2017.
_FREQUENCIES = (10_000.0 ** -(np.arange(128) / 128)).astype("float32")


class Conditioned:
    """Gives a network layers that make features of times and labels. Mixed in before `Network`."""

    def _build_condition(self, dim, num_classes, ends=False):
        """Adds the layers, of so many features; `num_classes` is `None` without classes.

        With `ends` the network is also told where to go. What it knows of that begins at nothing,
        so that a network that was trained without goes on as it is.
        """
        self.time = [
            layers.Dense(dim, activation="silu", name="time_in"),
            layers.Dense(dim, name="time_out"),
        ]
        self.label = None
        if num_classes is not None:
            self.label = layers.Embedding(num_classes + 1, dim, name="label")
        self.way = []
        if ends:
            self.way = [
                layers.Dense(dim, activation="silu", name="way_in"),
                layers.Dense(dim, kernel_initializer="zeros", name="way_out"),
            ]

    def condition(self, times, labels=None, ends=None):
        """Features `[B, dim]` of times `[B]`, 0 to 1, labels `[B]`, where `num_classes` is none,
        and of the times `[B]` to go to.
        """
        x = self.embed_times(times)
        for layer in self.time:
            x = layer(x)
        if self.label is not None:
            x = x + self.label(labels)
        if self.way:
            # As far as they are away: Geng et al. (2025), table 1c.
            y = self.embed_times(times - ends)
            for layer in self.way:
                y = layer(y)
            x = x + y
        return x

    @staticmethod
    def embed_times(times):
        """Sines and cosines of times `[B]`, float32 `[B, 256]` whatever the precision."""
        angles = 1000 * ops.cast(times, "float32")[:, None] * _FREQUENCIES
        return ops.concatenate([ops.cos(angles), ops.sin(angles)], axis=-1)
