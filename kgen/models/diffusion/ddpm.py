"""Denoising diffusion on a U-Net, of 1,000 steps of which sampling takes as many as it likes.

Ho, Jain and Abbeel, "Denoising diffusion probabilistic models" (NeurIPS 2020; arXiv 2006.11239),
sampled by DDIM: Song, Meng and Ermon, "Denoising diffusion implicit models" (ICLR 2021; arXiv
2010.02502).

The network is in `kgen.models.diffusion.unet`, the path and the loss in
`kgen.models.diffusion.paths`, sampling in `kgen.models.diffusion.base`.
"""

import keras

from kgen.checks import Number
from kgen.models.diffusion.base import DenoisingGenerator
from kgen.models.diffusion.unet import UNetGenerator


@keras.saving.register_keras_serializable(package="kgen")
class DDPM(UNetGenerator):
    """Denoising diffusion on a U-Net, on pixels or on a VAE's latent map.

    Arguments and what is logged: as for `UNetGenerator` and `DenoisingGenerator`; by default the
    noise schedule is `"cosine"`, and the prediction `"noise"`, at times that are equally likely.

    Example:

    >>> model = kgen.models.DDPM((28, 28, 1), num_classes=10)
    >>> model.compile()
    >>> model.fit(data.train, epochs=10)
    >>> model.generate(16, labels=3, num_steps=50, sampler="ddim", eta=0.5)
    """

    tiny_preset = "ddpm_tiny"
    presets = {
        "ddpm_tiny": {"image_shape": (8, 8, 1), "filters": 16, "patch_size": 2},
        "ddpm_28x28": {"image_shape": (28, 28, 1)},
        "ddpm_32x32": {"image_shape": (32, 32, 3), "filters": 64},
        # The paper's, appendix B, but for the scales and the wider features of time.
        "ddpm_38m": {
            "image_shape": (32, 32, 3),
            "noise_schedule": "linear",
            "filters": 128,
            "multipliers": (1, 2, 2, 2),
            "blocks": 2,
            "attention": (1,),
            "patch_size": 1,
            "dropout": 0.1,
            "all_joined": True,
            "ema_decay": 0.9999,
        },
    }
    samplers = ("ddim", "ancestral", "multistep", "dpm_solver", "heun")
    sampling_numbers = {
        **DenoisingGenerator.sampling_numbers,
        "eta": Number(least=0, most=1, off=0),
    }

    def __init__(
        self,
        image_shape,
        num_classes=None,
        autoencoder=None,
        noise_schedule="cosine",
        prediction="noise",
        times="uniform",
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
        num_steps=50,
        sampler="ddim",
        guidance_scale=1.0,
        guidance_low=0.0,
        guidance_high=1.0,
        eta=0.0,
    ):
        """Draws noise and follows the path back to the data.

        Args:
            num_steps: Int, at most 1,000, of the path's.
            sampler: `"ddim"`, `"ancestral"`, `"heun"`, `"multistep"` or `"dpm_solver"`, see
                `kgen.models.diffusion.solvers.solve`.
            eta: Float, 0 to 1, the share of the noise that `"ddim"` draws anew in each step.
        """
        return self._draw(
            seeds,
            labels,
            num_steps=num_steps,
            sampler=sampler,
            guidance_scale=guidance_scale,
            guidance_low=guidance_low,
            guidance_high=guidance_high,
            eta=eta,
        )
