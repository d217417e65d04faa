"""Images for training and evaluation: from any source to uint8 arrays, split and cached.

Nothing here imports TensorFlow, except for the sources that are TensorFlow's own (`tfds:` and
`tf.data`), and Keras is imported only when `Split.batches` is first called.
"""

from kgen.data.loading import Data, load
from kgen.data.sources import SOURCES
from kgen.data.splits import Split

__all__ = ["SOURCES", "Batches", "Data", "Split", "load"]


def __getattr__(name):
    if name == "Batches":  # a `keras.utils.PyDataset`: importing it imports Keras
        from kgen.data.batches import Batches

        return Batches
    raise AttributeError(f"module 'kgen.data' has no attribute '{name}'")
