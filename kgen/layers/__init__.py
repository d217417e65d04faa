"""What two models share: causal convolutions, quantizers."""
