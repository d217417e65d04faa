"""Autoregressive models: pixel after pixel, with an exact likelihood.

All share `base.AutoregressiveGenerator`: levels of grey, the exact log-probability, the endpoints
`score` and `complete`, and the cached samplers (`sampling.py`), by which a new pixel costs one
column of the network. What a network says of a pixel is a distribution (`distributions.py`): a
probability for every level, or a mixture of logistics. They differ in the network: masked
convolutions (`pixelcnn.py`, `gated_pixelcnn.py`, `pixelcnn_pp.py`), recurrence (`pixelrnn.py`) or
attention (`image_gpt.py`).
"""

from kgen import lazy

__getattr__, __dir__ = lazy.attach(__name__)
