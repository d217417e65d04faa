"""Generative adversarial networks: a generator against a discriminator.

All share `base.AdversarialGenerator`: two players with an optimizer each, the step in which both
move, an averaged generator that samples, and two endpoints more, `decode` of a latent vector and
`invert`, which finds that of an image. They
draw in one pass of the network and have no likelihood. They differ in their networks, and by
argument in the loss (`losses.py`).
"""

from kgen import lazy

__getattr__, __dir__ = lazy.attach(__name__)
