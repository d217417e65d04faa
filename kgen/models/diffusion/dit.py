"""Diffusion transformer, trained and sampled as a rectified flow.

The network is that of Peebles and Xie, "Scalable diffusion models with transformers" (ICCV
2023; arXiv 2212.09748): an image in patches, blocks conditioned by adaLN-Zero (section 3.2),
sizes S to XL (table 1). What it learns by default is the velocity of a rectified flow, see
`kgen.models.diffusion.paths`; how it is sampled stands in `kgen.models.diffusion.base`.
"""

import keras
import numpy as np
from keras import layers, ops

from kgen.checks import check_ints
from kgen.layers.network import Network
from kgen.layers.transformer import (
    TransformerSpec,
    grid_positions,
    modulate,
    normalization,
    run_blocks,
    transformer_optimizer,
)
from kgen.layers.vit import patchify, unpatchify
from kgen.models.diffusion.base import DenoisingGenerator
from kgen.models.diffusion.conditioning import Conditioned


@keras.saving.register_keras_serializable(package="kgen")
class DiT(DenoisingGenerator):
    """Diffusion transformer with rectified flow, on pixels or on a VAE's latent map.

    Args:
        patch_size: Int, side of a patch of pixels, or of the latent map; divides its sides.
        dim: Int, see `TransformerSpec`, as are `num_layers`, `num_heads`, `rotary`, `mlp`, `norm`,
            `qk_norm` and `dropout`.
        class_tokens: Int, tokens of the class that join those of the image halfway through the
            network, beside what the class does in every block: Li and He (2025; arXiv 2511.13720),
            section 4.4. 0 for none, as without classes.
        gradient_checkpointing: Bool, whether training computes what is inside a block anew for the
            gradient in place of keeping it: less memory, a third more time.

    Further arguments and what is logged: as for `DenoisingGenerator`.

    Example:

    >>> model = kgen.models.DiT((28, 28, 1), num_classes=10)
    >>> model.compile()
    >>> model.fit(data.train, epochs=20)
    >>> model.generate(16, labels=3, guidance_scale=2.0, num_steps=16, sampler="heun")
    """

    tiny_preset = "dit_tiny"
    presets = {
        "dit_tiny": {
            "image_shape": (8, 8, 1),
            "patch_size": 4,
            "dim": 16,
            "num_layers": 1,
            "num_heads": 2,
        },
        "dit_8x8": {"image_shape": (8, 8, 1), "patch_size": 2, "num_layers": 4},
        "dit_28x28": {"image_shape": (28, 28, 1), "patch_size": 4, "dim": 96, "num_layers": 4},
        "dit_32x32": {
            "image_shape": (32, 32, 3),
            "patch_size": 4,
            "dim": 256,
            "num_layers": 8,
            "num_heads": 8,
        },
        "dit_s": {
            "image_shape": (32, 32, 3),
            "dim": 384,
            "num_layers": 12,
            "num_heads": 6,
            "ema_decay": 0.9999,
        },
        "dit_b": {
            "image_shape": (32, 32, 3),
            "dim": 768,
            "num_layers": 12,
            "num_heads": 12,
            "ema_decay": 0.9999,
        },
        "dit_l": {
            "image_shape": (32, 32, 3),
            "dim": 1024,
            "num_layers": 24,
            "num_heads": 16,
            "ema_decay": 0.9999,
        },
        "dit_xl": {
            "image_shape": (32, 32, 3),
            "dim": 1152,
            "num_layers": 28,
            "num_heads": 16,
            "ema_decay": 0.9999,
        },
    }

    def __init__(
        self,
        image_shape,
        num_classes=None,
        autoencoder=None,
        patch_size=2,
        dim=128,
        num_layers=6,
        num_heads=4,
        rotary=True,
        mlp="gelu",
        norm="layer",
        qk_norm=False,
        dropout=0.0,
        class_tokens=0,
        gradient_checkpointing=False,
        **kwargs,
    ):
        super().__init__(image_shape, num_classes, autoencoder=autoencoder, **kwargs)
        spec = TransformerSpec.of(self)
        check_ints(1, patch_size=patch_size)
        check_ints(0, class_tokens=class_tokens)
        if class_tokens and num_classes is None:
            raise ValueError(
                f"class_tokens say the class: give num_classes. Received: {class_tokens}"
            )
        if any(side % patch_size for side in self.latent_shape[:2]):
            what = "image" if self.autoencoder is None else "latent map"
            raise ValueError(
                f"patch_size must divide the sides of the {what}, "
                f"{self.latent_shape[0]}x{self.latent_shape[1]}. Received: patch_size={patch_size}"
            )
        shape = self.latent_shape
        told = (class_tokens, self.told_ends, gradient_checkpointing)
        self._build_networks(
            lambda name: FlowTransformer(shape, patch_size, num_classes, spec, *told, name=name)
        )

    student: str | None = "soflow_dit"

    # Measured on CIFAR-10 (JPEG copy) at equal time of a CPU: 32 images a step beat 128, and a rate
    # of 2e-3 beats 1e-3, which beats 3e-4, with warm-up and a cosine to 1 %. On MNIST 16 beat 32.

    @property
    def default_batch_size(self):
        if self.dim > 256:
            return 64
        return 32 if self.dim > 128 else 16

    def default_optimizer(self, learning_rate=None):
        if learning_rate is None:
            learning_rate = min(2e-3, 0.256 / self.dim) if self.dim <= 256 else 0.128 / self.dim
        return transformer_optimizer(learning_rate, self.dim)


@keras.saving.register_keras_serializable(package="kgen")
class FlowTransformer(Conditioned, Network):
    """What is said of every place of a noisy image `[B, H, W, C]`, given the time and the class.

    Times `[B]` are 0 to 1; the label `num_classes` stands for no class. With `ends` it is told the
    times `[B]` to go to, too. See `DiT`.
    """

    def __init__(
        self,
        shape,
        patch_size,
        num_classes,
        spec,
        class_tokens=0,
        ends=False,
        gradient_checkpointing=False,
        **kwargs,
    ):
        # In half precision many times would be one: the layers inside cast what they are given.
        super().__init__(autocast=False, **kwargs)
        self.spec = spec = TransformerSpec.get(spec)
        self.shape = shape
        self.patch_size = patch_size
        dim = spec.dim
        grid = [side // patch_size for side in shape[:2]]
        positions = grid_positions(*grid)
        self.places = tuple(positions.T.astype("int32"))
        self.patches = layers.Dense(dim, name="patches")
        self.rows = layers.Embedding(grid[0], dim, name="rows")
        self.columns = layers.Embedding(grid[1], dim, name="columns")
        self._build_condition(dim, num_classes, ends)
        self.joined = None
        if class_tokens:
            self.joined = layers.Embedding(class_tokens, dim, name="class_tokens")
        self.blocks = spec.blocks(positions, conditional=True, before=class_tokens)
        self.norm = normalization(spec.norm, scale=False, name="norm")
        self.modulation = layers.Dense(2 * dim, kernel_initializer="zeros", name="modulation")
        self.velocity = layers.Dense(
            patch_size**2 * shape[-1], kernel_initializer="zeros", dtype="float32", name="velocity"
        )
        labels = None if num_classes is None else np.zeros(1, "int32")
        time = np.zeros(1, "float32")
        self(np.zeros((1, *shape), "float32"), time, labels, ends=time)  # builds its weights

    def call(self, x, times, labels=None, seeds=None, ends=None):
        condition = self.condition(times, labels, ends)
        x = self.patches(patchify(x, self.patch_size))  # (B, T, D)
        x = x + self.rows(self.places[0]) + self.columns(self.places[1])
        half, recompute = len(self.blocks) // 2, self.gradient_checkpointing
        x = run_blocks(self.blocks[:half], x, condition, seeds, recompute=recompute)
        if self.joined is not None:
            own = self.label(labels)[:, None] + self.joined(np.arange(self.class_tokens))
            x = ops.concatenate([own, x], axis=1)
        x = run_blocks(self.blocks[half:], x, condition, seeds, half, recompute)
        if self.joined is not None:
            x = ops.split(x, [self.class_tokens], axis=1)[1]
        shift, scale = ops.split(self.modulation(ops.silu(condition))[:, None], 2, axis=-1)
        x = self.velocity(modulate(self.norm(x), shift, scale))  # (B, T, P * P * C)
        return unpatchify(x, self.patch_size, *self.shape[:2])
