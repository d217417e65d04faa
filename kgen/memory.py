"""Whether a network fits the memory of the machine: said before it is built."""

import os

import keras

#: What to do where it does not.
SMALLER = (
    "Take smaller images, a larger patch_size, or a model that draws codes or latents "
    "(vq_transformer, maskgit, dit or flow_matching with an autoencoder)."
)


def memory():
    """Bytes of this machine, or `None` where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def on_cpu():
    """Whether all is computed in the machine's own memory."""
    return any(
        str(device).lower().startswith("cpu") for device in keras.distribution.list_devices()
    )


def check_network(parameters, tokens=0, num_heads=1):
    """A `ValueError` where a network is too large to be built here.

    Args:
        parameters: Int, of the network, about. A model and the average of its weights hold them
            twice, in float32.
        tokens: Int, of the most that attend to each other. One image takes so much attention at
            once.
        num_heads: Int, of that attention.
    """
    there = memory()
    if there is None or not on_cpu():
        return
    weights, attention = 8 * parameters, 4 * num_heads * tokens**2
    if weights > there:
        raise ValueError(
            f"A network of some {parameters:,} parameters takes {weights / 1e9:,.0f} GB with its "
            f"average, and this machine has {there / 1e9:,.0f} GB. Take fewer layers, or fewer "
            "features in each."
        )
    if attention > there:
        raise ValueError(
            f"Attention among {tokens:,} tokens takes {attention / 1e9:,.0f} GB for one image, and "
            f"this machine has {there / 1e9:,.0f} GB. {SMALLER}"
        )
