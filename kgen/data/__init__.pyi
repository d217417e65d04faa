from kgen.data.batches import Batches as Batches
from kgen.data.degradation import (
    DEGRADATIONS as DEGRADATIONS,
    Degradation as Degradation,
    degrade as degrade,
)
from kgen.data.loading import Data as Data, load as load
from kgen.data.pairs import load_pairs as load_pairs
from kgen.data.sources import SOURCES as SOURCES
from kgen.data.splits import Split as Split
