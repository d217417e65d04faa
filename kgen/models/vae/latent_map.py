"""Variational autoencoders with one latent map, of which a latent vector is the case of one place.

Kingma and Welling, "Auto-encoding variational Bayes" (ICLR 2014; arXiv 1312.6114), with a diagonal
normal posterior and a standard normal prior (appendices B and C.2). With several importance samples
it is the importance-weighted autoencoder of Burda, Grosse and Salakhutdinov (ICLR 2016; arXiv
1509.00519), whose is the count of active units, too (section 5.1).
"""

import math

from keras import layers, ops

from kgen.layers.conditioning import with_class
from kgen.layers.scaling import scale_images
from kgen.losses import likelihood as likelihoods
from kgen.models.vae.base import VariationalGenerator
from kgen.training.step import batch_moments


class LatentMapVAE(VariationalGenerator):
    """Base class of variational autoencoders with one latent vector or map.

    Latent variables enter and leave as a vector, a map in the order of `latent_shape`: rows,
    columns, channels. A subclass says by `_set_latent_shape` how many there are, and builds two
    networks, which with classes take a one-hot label `[B, num_classes]` as a second input:

    - `encoder`, from pixels `[B, H, W, C]` in -1 to 1 (`kgen.layers.ScaleImages`) to all means and
      then all log-variances, `[B, 2 * latent_dim]`, see `flatten_statistics`;
    - `decoder`, from `[B, latent_dim]` to the likelihood's parameters `[B, H, W, C]`, of which
      `kgen.layers.UnscaleImages(likelihood)` makes images.

    Arguments and what is logged: as for `VariationalGenerator`. Active are the latent dimensions
    whose posterior mean varies over the batch by more than 0.01; free bits are per dimension.
    """

    def _set_latent_shape(self, shape):
        #: Tuple `(h, w, c)` of the latent map; a latent vector has one place.
        self.latent_shape = shape
        self.latent_dim = self.noise_dim = math.prod(shape)

    # The bound ------------------------------------------------------------------------

    def infer(self, images, labels=None):
        return self.encode(images, labels)

    def evidence(self, posterior, prior, noise, labels=None, exact=True):
        mean, log_variance = posterior
        latents = mean + ops.exp(0.5 * log_variance) * noise
        outputs = self.decoder(with_class(latents, labels, self.num_classes))
        return outputs, self._divergences(posterior, prior, latents, noise, exact)

    def _divergences(self, posterior, prior, latents, noise, exact):
        """The divergence of the posterior from the prior, `[B, units]`, see `evidence`."""
        mean, log_variance = posterior
        if exact:
            return likelihoods.normal_kl(mean, log_variance)
        return likelihoods.normal_log_ratio(latents, noise, log_variance)

    def _active_units(self, posterior, divergences):
        return batch_moments(posterior[0])[1] > 0.01

    # Between images and latent variables ----------------------------------------------

    def encode(self, images, labels=None):
        """The posterior of images: mean and log-variance, float32 `[B, latent_dim]` each."""
        return self._posterior(with_class(scale_images(images), labels, self.num_classes))

    def _posterior(self, inputs):
        mean, log_variance = ops.split(ops.cast(self.encoder(inputs), "float32"), 2, axis=-1)
        return mean, ops.clip(log_variance, -20.0, 10.0)

    def decode_outputs(self, latents, labels=None):
        return self.decoder(with_class(latents, labels, self.num_classes))

    def log_likelihood(self, images, latents, labels=None):
        """Log-likelihood of uint8 images given latent vectors: float32 `[B]`, nats."""
        return self._log_likelihood(images, self.decode_outputs(latents, labels))


def flatten_statistics(x):
    """(B, h, w, 2 * channels) to (B, 2 * latent_dim): all means, then all log-variances."""
    return layers.Concatenate()([layers.Flatten()(part) for part in ops.split(x, 2, axis=-1)])
