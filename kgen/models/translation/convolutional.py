"""What the translators of convolutions alone share: the network, and images of any size."""

from keras import ops

from kgen.checks import check_ints, check_shares
from kgen.layers.resampling import padded_to
from kgen.layers.scaling import scale_images, unscale_images
from kgen.models.translation import networks
from kgen.models.translation.base import Translator
from kgen.training.average import AveragedWeights


class ConvolutionalTranslator(AveragedWeights, Translator):
    """Base class of translators whose network is that of `kgen.models.translation.networks`.

    What it says is added to the first guess: the input, enlarged, see `Translator.first_guess`.

    Args:
        filters: Int, at the largest feature map; they double with each smaller one, up to four
            times.
        num_downsamplings: Int, how often the sides of feature maps are halved.
        blocks: Int, residual blocks at every feature map, on the way down and on the way up.
        middle_blocks: Int, residual blocks at the smallest feature map.
        ema_decay: Float, 0 to 1, of the exponential moving average of the weights, with which the
            model evaluates, translates and is exported.

    Further arguments: as for `Translator`.
    """

    convolutional = True

    def __init__(
        self,
        image_shape,
        input_shape=None,
        degradation=None,
        filters=32,
        num_downsamplings=2,
        blocks=1,
        middle_blocks=2,
        ema_decay=0.999,
        **kwargs,
    ):
        super().__init__(image_shape, input_shape, degradation, **kwargs)
        check_ints(1, filters=filters)
        check_ints(
            0, num_downsamplings=num_downsamplings, blocks=blocks, middle_blocks=middle_blocks
        )
        check_shares(ema_decay=ema_decay)
        self.stride = 2**num_downsamplings
        self._build_networks(lambda name: self._network(name, self.input_shape, self.image_shape))

    def _network(self, name, taken, given):
        """A network from images of a shape to images of another."""
        sizes = (self.filters, self.blocks, self.middle_blocks, self.num_downsamplings)
        scale = given[0] // taken[0]
        return networks.network(taken[-1], given[-1], *sizes, scale, name)

    @property
    def reach(self):
        return networks.reach(self.blocks, self.middle_blocks, self.num_downsamplings, self.scale)

    @property
    def default_batch_size(self):
        return 16

    def pixels(self, network, inputs, training=False):
        """What a network makes of uint8 inputs: float32 `[B, H, W, C]`, about -1 to 1."""
        height, width = ops.shape(inputs)[1:3]
        said = network(scale_images(self._padded(inputs)), training=training)
        said = said[:, : height * self.scale, : width * self.scale]
        return self.with_known(self.first_guess(inputs) + said, inputs)

    def _padded(self, images):
        return padded_to(images, self.stride)

    def sample(self, seeds, images):
        return unscale_images(self.pixels(self.ema_network, images))
