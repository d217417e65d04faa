"""Tokens: a tokenizer turns images into codes, and a prior over the codes draws new ones.

The tokenizer is a `VQVAE` (`vqvae.py`), which is trained first. The priors share
`base.TwoStageGenerator`: a frozen copy of it, and its endpoints beside their own. They differ in
how they draw the codes: one after the other, with a likelihood (`vq_pixelcnn.py`,
`vq_transformer.py`, by `base.AutoregressivePrior`), or many at a time in a few steps
(`maskgit.py`).
"""

from kgen import lazy

__getattr__, __dir__ = lazy.attach(__name__)
