import sys

import numpy as np
import pytest
from scipy.ndimage import correlate1d
from sklearn.datasets import load_digits

from kgen.evaluation import pairs


def noisy(images, amount, seed=0):
    noise = np.random.default_rng(seed).normal(scale=amount, size=images.shape)
    return np.clip(images + noise, 0, 255).astype("uint8")


@pytest.fixture(scope="module")
def digits():
    """Real images [8, 176, 176, 1]: four handwritten digits, each enlarged to 88x88."""
    images = (load_digits().images[:32] * 15.9375).astype("uint8")
    large = images.repeat(11, axis=1).repeat(11, axis=2).reshape(8, 2, 2, 88, 88)
    return large.transpose(0, 1, 3, 2, 4).reshape(8, 176, 176, 1)


def reference_terms(a, b):
    """Mean SSIM and mean contrast-structure term [N, C] in float64, from the paper's formulas."""
    window = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def local_mean(x):
        filtered = correlate1d(correlate1d(x, window, axis=1), window, axis=2)
        return filtered[:, 5:-5, 5:-5]  # where the window stays inside the image

    a, b = a.astype("float64"), b.astype("float64")
    mean_a, mean_b = local_mean(a), local_mean(b)
    variances = local_mean(a * a) - mean_a**2 + local_mean(b * b) - mean_b**2
    covariance = local_mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    structure = (2 * covariance + c2) / (variances + c2)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return (luminance * structure).mean(axis=(1, 2)), structure.mean(axis=(1, 2))


def halved(x):
    n, height, width, channels = x.shape
    x = np.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), "edge")
    return x.reshape(n, -(-height // 2), 2, -(-width // 2), 2, channels).mean(axis=(2, 4))


def reference_ms_ssim(a, b):
    a, b, product = a.astype("float64"), b.astype("float64"), 1.0
    exponents = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    for scale, exponent in enumerate(exponents):
        similarity, structure = reference_terms(a, b)
        term = similarity if scale == len(exponents) - 1 else structure
        product = product * np.maximum(term, 0) ** exponent
        a, b = halved(a), halved(b)
    return product.mean(axis=-1)


@pytest.mark.parametrize("shape", [(6, 11, 30, 1), (6, 33, 20, 3)])
def test_ssim_against_the_formula(shape, monkeypatch):
    monkeypatch.setattr(pairs, "_BLOCK", 2500)  # blocks of different lengths
    a = np.random.default_rng(0).integers(0, 256, shape).astype("uint8")
    a[0] = 7  # an even image, in which nearly everything cancels
    b = noisy(a, 40)
    expected = reference_terms(a, b)[0].mean(axis=-1)
    np.testing.assert_allclose(pairs.ssim(a, b), expected, rtol=1e-4)


def torchmetrics_ssim(a, b):
    """Two SSIMs [N] of torchmetrics, float64: where the window stays inside, and everywhere.

    It averages over windows too that reach beyond the image, where it mirrors the image; the
    paper and tf.image do not, so its map has to be cropped.
    """
    torch, module = (
        pytest.importorskip("torch"),
        pytest.importorskip("torchmetrics.functional.image"),
    )
    everywhere, full = module.structural_similarity_index_measure(
        *(torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float64) for x in (a, b)),
        data_range=255.0,
        reduction="none",
        return_full_image=True,
    )
    return full[..., 5:-5, 5:-5].mean(dim=(1, 2, 3)).numpy(), everywhere.numpy()


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_against_torchmetrics(digits, channels):
    a = digits.reshape(-1, 88, 88, 1).repeat(channels, axis=-1)
    b = noisy(a, 30)
    np.testing.assert_allclose(pairs.ssim(a, b), torchmetrics_ssim(a, b)[0], rtol=1e-4)


@pytest.mark.slow
def test_ms_ssim_against_torchmetrics(digits):
    # With one channel, because it takes the mean over channels inside the product; at
    # 176 = 11 * 16 pixels, because it drops odd rows and columns. Of its five terms only the
    # last one has windows that reach beyond the image.
    torch, module = (
        pytest.importorskip("torch"),
        pytest.importorskip("torchmetrics.functional.image"),
    )
    b = noisy(digits, 60)
    theirs = module.multiscale_structural_similarity_index_measure(
        *(torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float64) for x in (digits, b)),
        data_range=255.0,
        reduction="none",
    )
    small = (x.reshape(8, 11, 16, 11, 16, 1).mean(axis=(2, 4)) for x in (digits, b))
    inside, everywhere = torchmetrics_ssim(*small)
    expected = theirs.numpy() * (inside / everywhere) ** 0.1333
    np.testing.assert_allclose(pairs.ms_ssim(digits, b), expected, rtol=1e-4)


def test_ms_ssim_against_the_formula(digits, monkeypatch):
    monkeypatch.setattr(pairs, "_BLOCK", 200_000)  # two colour images of this size
    a = np.concatenate([digits, noisy(digits, 20, 1), digits[:, ::-1]], axis=-1)[:3, 15:, :167]
    assert a.shape == (3, 161, 167, 3)  # as small as can be, and odd at every scale
    b = noisy(a, 60)
    np.testing.assert_allclose(pairs.ms_ssim(a, b), reference_ms_ssim(a, b), rtol=1e-4)


def test_psnr_against_the_formula(digits, monkeypatch):
    monkeypatch.setattr(pairs, "_BLOCK", 3 * digits[0].size)
    b = noisy(digits, 30)
    squares = np.square(b.astype("float64") - digits).mean(axis=(1, 2, 3))
    found = pairs.psnr(digits, b)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, 10 * np.log10(255**2 / squares), rtol=1e-6)
    np.testing.assert_array_equal(pairs.psnr(b, digits), found)  # uint8 does not wrap around


@pytest.mark.slow
def test_psnr_against_torchmetrics(digits, monkeypatch):
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("torchmetrics.functional.image")
    monkeypatch.setattr(pairs, "_BLOCK", 3 * digits[0].size)
    b = noisy(digits, 30)
    expected = [
        float(
            module.peak_signal_noise_ratio(
                torch.tensor(x, dtype=torch.float64),
                torch.tensor(y, dtype=torch.float64),
                data_range=255.0,
            )
        )
        for x, y in zip(digits, b, strict=True)
    ]
    found = pairs.psnr(digits, b)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(pairs.psnr(b, digits), found)  # uint8 does not wrap around


def test_equal_images(digits):
    np.testing.assert_array_equal(pairs.psnr(digits, digits), np.inf)
    np.testing.assert_allclose(pairs.ssim(digits, digits), np.ones(8), rtol=1e-6)
    np.testing.assert_allclose(pairs.ms_ssim(digits, digits), np.ones(8), rtol=1e-6)


def test_opposite_images():
    black = np.zeros((2, 11, 11, 1), "uint8")
    np.testing.assert_allclose(pairs.psnr(black, black + 255), 0, atol=1e-12)
    expected = 0.01**2 / (1 + 0.01**2)
    np.testing.assert_allclose(pairs.ssim(black, black + 255), expected, rtol=1e-3)


@pytest.mark.parametrize("function", [pairs.psnr, pairs.ssim, pairs.ms_ssim])
def test_images_that_are_no_pairs(function, digits):
    floats = digits.astype("float32")
    for a, b in (
        (digits, floats),
        (floats, floats),
        (digits, digits[:7]),
        (digits[..., 0], digits[..., 0]),
        (digits[:0], digits[:0]),
    ):
        with pytest.raises(ValueError, match="two uint8 arrays of one shape") as error:
            function(a, b)
        assert str(error.value).endswith(
            f"Received: {a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)}"
        )


@pytest.mark.parametrize(
    ("function", "name", "least"), [(pairs.ssim, "SSIM", 11), (pairs.ms_ssim, "MS-SSIM", 161)]
)
def test_images_that_are_too_small(function, name, least):
    for height, width in ((least, least - 1), (least - 1, least)):
        images = np.zeros((1, height, width, 1), "uint8")
        message = f"^{name} needs images whose sides are at least {least} pixels.*{height}x{width}$"
        with pytest.raises(ValueError, match=message):
            function(images, images)
    smallest = np.zeros((1, least, least, 1), "uint8")
    np.testing.assert_allclose(function(smallest, smallest), 1, rtol=1e-6)


def test_without_tensorflow(monkeypatch, digits):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    for function in (pairs.ssim, pairs.ms_ssim):
        with pytest.raises(ImportError, match="TensorFlow's: pip install tensorflow"):
            function(digits, digits)
    assert pairs.psnr(digits, digits).shape == (8,)
