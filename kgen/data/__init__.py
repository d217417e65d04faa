"""Images for training and evaluation: from any source to uint8 arrays, split and cached.

Nothing here imports TensorFlow, except for the sources that are TensorFlow's own (`tfds:` and
`tf.data`), and Keras is imported only when `Split.batches` is first called, or images are degraded.
"""

from kgen import lazy
from kgen.data.loading import Data, load
from kgen.data.pairs import load_pairs
from kgen.data.sources import SOURCES
from kgen.data.splits import Split

__all__ = [
    "DEGRADATIONS",
    "SOURCES",
    "Batches",
    "Data",
    "Degradation",
    "Split",
    "degrade",
    "load",
    "load_pairs",
]

# Importing these imports Keras.
__getattr__, __dir__ = lazy.attach(
    __name__,
    {
        "Batches": "kgen.data.batches",
        **dict.fromkeys(("DEGRADATIONS", "Degradation", "degrade"), "kgen.data.degradation"),
    },
)
