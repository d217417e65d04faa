"""Variational autoencoders: latent variables, a bound on the likelihood, images in one pass.

All share `base.VariationalGenerator`: the bound and its weighted forms, the likelihoods of a pixel
(`kgen.losses`), the estimate by importance samples, and the endpoints `encode`, `decode` and
`reconstruct`. They differ in the posterior: one latent vector or map (`latent_map.LatentMapVAE`;
`vae.py`, by convolutions, `vit_vae.py`, by a transformer), or several layers of them
(`ladder_vae.py`).
"""

from kgen import lazy

__getattr__, __dir__ = lazy.attach(__name__)
