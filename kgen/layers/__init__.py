"""Layers that models share, as public as Keras's own: registered, configured, built by shape."""

from kgen import lazy
from kgen.layers.causal_conv import CausalConv2D
from kgen.layers.quantizers import FSQ, VectorQuantizer
from kgen.layers.scaling import ScaleImages, UnscaleImages
from kgen.layers.spectral import SpectralConv2D, SpectralDense
from kgen.layers.transformer import (
    Attention,
    FeedForward,
    RMSNorm,
    TransformerBlock,
    TransformerSpec,
)
from kgen.layers.vit import GridPositions

__all__ = [
    "FSQ",
    "Attention",
    "CausalConv2D",
    "FeedForward",
    "GridPositions",
    "RMSNorm",
    "ScaleImages",
    "SpectralConv2D",
    "SpectralDense",
    "TransformerBlock",
    "TransformerSpec",
    "UnscaleImages",
    "VectorQuantizer",
]

__getattr__, __dir__ = lazy.attach(__name__)
