"""Image-to-image translation by diffusion: several answers to one input.

Saharia et al., "Palette: image-to-image diffusion models" (SIGGRAPH 2022; arXiv 2111.05826): the
denoiser of a diffusion model is given the input beside the noisy image, as further channels
(section 3, with Saharia et al., "Image super-resolution via iterative refinement", arXiv
2104.07636, section 2.4). By default the way between data and noise is straight, as of flow
matching, in place of their schedule.

The network is in `kgen.models.diffusion.unet`, the path and the loss in
`kgen.models.diffusion.paths`, the solvers in `kgen.models.diffusion.solvers`.
"""

import keras
from keras import ops

from kgen import random
from kgen.checks import Number, check_shares
from kgen.layers.resampling import enlarged
from kgen.layers.scaling import scale_images, unscale_images
from kgen.models.diffusion.paths import Method
from kgen.models.diffusion.solvers import check_solver, solve
from kgen.models.diffusion.unet import UNet, check_unet
from kgen.models.translation.base import Translator
from kgen.training.average import AveragedWeights

# A stream of noise beside that of images, 0.
_TIMES = 3


@keras.saving.register_keras_serializable(package="kgen")
class Palette(AveragedWeights, Translator):
    """Translation by diffusion: each seed gives another answer, each of them sharp.

    Args:
        filters, multipliers, blocks, attention, num_heads, patch_size: See `FlowMatching`.
        dropout: Float, see `FlowMatching`.
        noise_schedule, prediction, times, weighting: Strings, see
            `kgen.models.diffusion.paths.Method`.
        ema_decay: Float, 0 to 1, of the exponential moving average of the weights, with which the
            model evaluates, translates and is exported.

    Further arguments: as for `Translator`. It takes images of its own size alone.

    Logs `loss`, the mean squared error of what the network says, weighted.

    Example:

    >>> model = kgen.models.Palette((28, 28, 1), degradation="box:0.25")
    >>> model.compile()
    >>> model.fit(images, epochs=10)
    >>> model.variants(incomplete, n=8).shape             # of uint8 [4, 28, 28, 2]
    (4, 8, 28, 28, 1)
    """

    tiny_preset = "palette_tiny"
    presets = {
        "palette_tiny": {
            "image_shape": (8, 8, 1),
            "degradation": "box:0.25",
            "filters": 16,
            "multipliers": (1,),
        },
        "palette_28x28": {"image_shape": (28, 28, 1)},
        "palette_32x32": {"image_shape": (32, 32, 3), "filters": 64},
        "palette_64x64": {
            "image_shape": (64, 64, 3),
            "filters": 64,
            "multipliers": (1, 2, 3),
            "attention": (2,),
        },
    }

    draws = True
    sampling_numbers = {"num_steps": Number(least=1, whole=True)}

    def __init__(
        self,
        image_shape,
        input_shape=None,
        degradation=None,
        filters=40,
        multipliers=(1, 2),
        blocks=1,
        attention=(),
        num_heads=4,
        patch_size=2,
        dropout=0.0,
        noise_schedule="rectified",
        prediction="x",
        times="logit_normal",
        weighting="none",
        ema_decay=0.999,
        **kwargs,
    ):
        super().__init__(image_shape, input_shape, degradation, **kwargs)
        self.method = Method(noise_schedule, prediction, times, weighting)
        check_shares(ema_decay=ema_decay)
        self.multipliers, self.attention = tuple(multipliers), tuple(attention)
        sizes = (filters, self.multipliers, blocks, self.attention, num_heads, patch_size)
        check_unet(self.image_shape, "image", *sizes, dropout)
        shape, given = self.image_shape, self.input_shape[-1]
        self._build_networks(
            lambda name: UNet(
                *(shape, None, *sizes, dropout, False), given_channels=given, name=name
            )
        )

    @property
    def default_batch_size(self):
        return 32

    def default_optimizer(self, learning_rate=None):
        """Adam with gradients of bounded length."""
        rate = 2e-3 if learning_rate is None else learning_rate
        return keras.optimizers.Adam(rate, beta_2=0.99, global_clipnorm=1.0)

    def objective(self, batch, training):
        network = self.network if training else self.ema_network
        x = scale_images(batch.images)
        noise = random.normal(batch.seeds, self.image_shape)
        times = self.method.draw_times(batch.seeds, _TIMES)
        point = self.method.way.mix(x, noise, times)
        said = self._said(
            network, point, times, self._given(batch.inputs), batch.seeds if training else None
        )
        loss = ops.mean(self.method.loss(said, x, noise, times))
        return loss, {"loss": loss}

    def _given(self, inputs):
        """Inputs as the network sees them, of the images' size."""
        return enlarged(scale_images(inputs), self.scale)

    def _said(self, network, point, times, given, dropout_seeds=None):
        """What a network says of points, given the inputs."""
        seen = ops.concatenate([self.method.seen(point, times), given], axis=-1)
        return network(seen, times, None, dropout_seeds)

    def sample(self, seeds, images, num_steps=16, sampler="multistep"):
        """Draws noise and follows the path back to an answer.

        Args:
            num_steps: Int, steps of the solver.
            sampler: `"euler"`, `"heun"` (two passes of the network per step), `"multistep"` or
                `"dpm_solver"` (one), see `kgen.models.diffusion.solvers.solve`.
        """
        given = self._given(images)

        def denoise(point, times):
            said = self._said(self.ema_network, point, times, given)
            return self.method.estimates(said, point, times)

        end = self.method.way.sigma(ops.ones((1,), "float32"))
        noise = end * random.normal(seeds, self.image_shape)
        x = solve(denoise, self.method.way, noise, num_steps, sampler, seeds=seeds)
        return unscale_images(self.with_known(x, images))

    def check_options(self, options, total=None):
        options = super().check_options(options, total)
        check_solver(
            self.method.way, options.get("num_steps", 16), options.get("sampler", "multistep")
        )
        return options
