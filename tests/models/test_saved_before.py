"""Files of kgen 0.1.0, written before its models were moved into families, still load.

Each holds a tiny model with arguments other than the defaults, weights rounded to sixteenths and
three classes; `images.npz` has what it drew then, from the seeds 0 to 3 and the classes 0, 1, 2, 0.
"""

import pathlib

import keras
import numpy as np
import pytest

import kgen

SAVED = pathlib.Path(__file__).parent / "saved"


@pytest.mark.parametrize("path", sorted(SAVED.glob("*.keras")), ids=lambda path: path.stem)
def test_it_draws_what_it_drew(path):
    model_class = kgen.models.get(path.stem)
    model = keras.saving.load_model(path)
    assert type(model) is model_class and model.compiled
    drawn = model.generate(seeds=[0, 1, 2, 3], labels=[0, 1, 2, 0])
    with np.load(SAVED / "images.npz") as images:
        difference = np.abs(drawn.astype(int) - images[path.stem])
    assert difference.max() <= 1 and (difference == 0).mean() > 0.99
