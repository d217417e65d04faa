"""How alike two images are: one figure for each pair, of uint8 `[N, H, W, C]` and as many.

The order of the two does not matter. A `ValueError` where they are no such images of one
shape; SSIM and MS-SSIM are TensorFlow's, and an `ImportError` says so without it.
"""

import numpy as np

_BLOCK = 2**22  # bytes of images compared at once


def psnr(a, b):
    """Peak signal-to-noise ratio, `10 log10(255^2 / mean squared error)`: float64 `[N]` in dB,
    infinite for equal images.
    """
    a, b = _checked(a, b)
    errors = _in_blocks(_squared_error, a, b)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / errors)


def _squared_error(a, b):
    difference = a.astype("float64") - b
    return np.mean(difference**2, axis=(1, 2, 3))


def ssim(a, b):
    """Structural similarity (Wang et al., "Image quality assessment: from error visibility
    to structural similarity", 2004, eq. 13), the mean over pixels and channels.

    The window is an 11x11 Gaussian of standard deviation 1.5 that stays inside the image, whose
    sides are at least 11; the constants are 0.01 and 0.03 as in the paper. Computed by
    `tf.image.ssim`: float32 `[N]`, at most 1, which is for equal images.
    """
    a, b = _checked(a, b, 11, "SSIM")
    return _in_blocks(_tensorflow_image("ssim"), a, b)


def ms_ssim(a, b):
    """Multi-scale structural similarity (Wang, Simoncelli and Bovik, "Multiscale structural
    similarity for image quality assessment", 2003, eq. 7), the mean over channels.

    Five scales, each half the one before, with the paper's exponents and the window of
    `ssim`: sides are at least 161, for it needs 11 pixels at the fifth. Computed by
    `tf.image.ssim_multiscale`, which takes negative terms as 0 and repeats the last row or
    column of an odd side before halving it: float32 `[N]` in 0 to 1, 1 for equal images.
    """
    a, b = _checked(a, b, 161, "MS-SSIM")
    return _in_blocks(_tensorflow_image("ssim_multiscale"), a, b)


def _tensorflow_image(name):
    """A function of `tf.image` for 8-bit images; imported here, so that PSNR needs none."""
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError("SSIM and MS-SSIM are TensorFlow's: pip install tensorflow") from error
    function = getattr(tf.image, name)
    return lambda a, b: function(a, b, max_val=255).numpy()


def _in_blocks(function, a, b):
    step = max(1, _BLOCK // a[0].size)
    parts = [function(a[i : i + step], b[i : i + step]) for i in range(0, len(a), step)]
    return np.concatenate(parts)


def _checked(a, b, least=1, name=None):
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.ndim != 4 or 0 in a.shape or {a.dtype, b.dtype} != {np.dtype("u1")}:
        raise ValueError(
            "Pairs of images must be two uint8 arrays of one shape [N, H, W, C]. Received: "
            f"{a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)}"
        )
    if min(a.shape[1:3]) < least:
        raise ValueError(
            f"{name} needs images whose sides are at least {least} pixels. "
            f"Received: {a.shape[1]}x{a.shape[2]}"
        )
    return a, b
