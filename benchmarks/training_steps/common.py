"""What the frameworks of benchmarks/training_step.py share: the data, and which model is which.

Each of them has a module here, with a function for every model, `MODEL(batch_size)`, that gives a
training step, a function without arguments that gives its loss, and the number of parameters.
Those of PyTorch take as a second argument what wraps networks, such as `torch.compile`.
"""

import numpy as np

SEED = 0
#: No preset: those of MNIST's 784 pixels and of 8x8 pixels are too slow and too small.
IMAGE_GPT = {"image_shape": (16, 16, 1), "num_levels": 2, "dim": 128, "num_layers": 4}


def images(batch_size, shape=(28, 28, 1)):
    return np.random.default_rng(SEED).integers(0, 256, (batch_size, *shape), "uint8")
