"""Diffusion and flow matching: from noise to an image in a number of steps.

`flow.py` has the way between data and noise, and the solvers that follow it; `dit.py` the diffusion
transformer, on pixels or on the latent map of a VAE. There is no exact likelihood; quality is
bought by steps at sampling time. Images can be inpainted and varied without further training.
"""

from kgen import lazy

__getattr__, __dir__ = lazy.attach(__name__)
