"""Images for training and evaluation: from any source to uint8 arrays, split and cached.

Nothing here imports TensorFlow, except for the sources that are TensorFlow's own (`tfds:` and
`tf.data`), and Keras is imported only when `Split.batches` is first called.
"""

from kgen import lazy
from kgen.data.loading import Data, load
from kgen.data.sources import SOURCES
from kgen.data.splits import Split

__all__ = ["SOURCES", "Batches", "Data", "Split", "load"]

# A `keras.utils.PyDataset`: importing it imports Keras.
__getattr__, __dir__ = lazy.attach(__name__, {"Batches": "kgen.data.batches"})
