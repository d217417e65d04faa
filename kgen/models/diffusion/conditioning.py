"""What a denoising network is told beside the point: the time and the class."""

import keras
import numpy as np
from keras import layers, ops

from kgen.configurable import Configurable

#: From one radian to one ten-thousandth for a thousandth of the way, as in Vaswani et al. 2017.
_FREQUENCIES = (10_000.0 ** -(np.arange(128) / 128)).astype("float32")


@keras.saving.register_keras_serializable(package="kgen")
class TimeAndClass(Configurable, layers.Layer):
    """Features `[B, dim]` of times `[B]`, 0 to 1, and labels `[B]`; `num_classes` is no class."""

    def __init__(self, dim, num_classes=None, **kwargs):
        # In half precision many times would be one: the layers inside cast what they are given.
        super().__init__(autocast=False, **kwargs)
        dtype = self.dtype_policy
        self.first = layers.Dense(dim, activation="silu", name="first", dtype=dtype)
        self.second = layers.Dense(dim, name="second", dtype=dtype)
        self.label = None
        if num_classes is not None:
            self.label = layers.Embedding(num_classes + 1, dim, name="label", dtype=dtype)

    def build(self, *shapes):
        self.first.build((None, 2 * len(_FREQUENCIES)))
        self.second.build((None, self.dim))
        if self.label is not None:
            self.label.build((None,))

    def call(self, times, labels=None):
        x = self.second(self.first(self.embed_times(times)))
        return x if self.label is None else x + self.label(labels)

    @staticmethod
    def embed_times(times):
        """Sines and cosines of times `[B]`, float32 `[B, 256]` whatever the precision."""
        angles = 1000 * ops.cast(times, "float32")[:, None] * _FREQUENCIES
        return ops.concatenate([ops.cos(angles), ops.sin(angles)], axis=-1)
