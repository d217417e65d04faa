"""What models share: causal convolutions, quantizers."""

from kgen.layers.causal_conv import CausalConv2D

__all__ = [
    "CausalConv2D",
]
