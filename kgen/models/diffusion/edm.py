"""EDM: a preconditioned denoiser of many noise levels, on a U-Net.

Karras, Aittala, Aila and Laine, "Elucidating the design space of diffusion-based generative models"
(NeurIPS 2022; arXiv 2206.00364).

The network is in `kgen.models.diffusion.unet`, the levels, the preconditioning and the loss in
`kgen.models.diffusion.paths`, sampling in `kgen.models.diffusion.base`.
"""

import keras

from kgen.checks import Number
from kgen.models.diffusion.base import DenoisingGenerator
from kgen.models.diffusion.unet import UNetGenerator


@keras.saving.register_keras_serializable(package="kgen")
class EDM(UNetGenerator):
    """A preconditioned denoiser on a U-Net, on pixels or on a VAE's latent map.

    Arguments and what is logged: as for `UNetGenerator` and `DenoisingGenerator`; by default the
    noise schedule is `"noise_levels"`, which are log-normal in training, and the prediction is
    `"preconditioned"`.

    Example:

    >>> model = kgen.models.EDM((28, 28, 1), num_classes=10)
    >>> model.compile()
    >>> model.fit(data.train, epochs=10)
    >>> model.generate(16, labels=3, num_steps=18, sampler="heun")
    """

    tiny_preset = "edm_tiny"
    presets = {
        "edm_tiny": {"image_shape": (8, 8, 1), "filters": 16, "multipliers": (1,)},
        "edm_28x28": {"image_shape": (28, 28, 1)},
        "edm_32x32": {"image_shape": (32, 32, 3), "filters": 64},
    }

    sampling_numbers = {**DenoisingGenerator.sampling_numbers, "churn": Number(least=0, off=0)}

    def __init__(
        self,
        image_shape,
        num_classes=None,
        autoencoder=None,
        noise_schedule="noise_levels",
        prediction="preconditioned",
        times="log_normal",
        **kwargs,
    ):
        super().__init__(
            *(image_shape, num_classes, autoencoder),
            noise_schedule=noise_schedule,
            prediction=prediction,
            times=times,
            **kwargs,
        )

    def sample(
        self,
        seeds,
        labels=None,
        num_steps=18,
        sampler="heun",
        guidance_scale=1.0,
        guidance_low=0.0,
        guidance_high=1.0,
        churn=0.0,
    ):
        """Draws noise and follows the path back to the data.

        Args:
            churn: Float, 0 or more, how much noise `"heun"` adds on the way, over all
                steps; 30 to 80 in the paper, of images in 256 and more steps.
        """
        return self._draw(
            seeds,
            labels,
            num_steps=num_steps,
            sampler=sampler,
            guidance_scale=guidance_scale,
            guidance_low=guidance_low,
            guidance_high=guidance_high,
            churn=churn,
        )
