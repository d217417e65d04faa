"""The limits of the proof: what just passes them, and what just does not."""

import numpy as np
import pytest

from export import parity


def pixels(difference, count):
    """1,000 pixels of which `count` are off."""
    expected = np.full((10, 10, 10), 100, "uint8")
    received = expected.copy()
    received.flat[:count] += np.uint8(difference)
    return expected, received


@pytest.mark.parametrize(
    ("difference", "count", "passed"),
    [(0, 0, True), (1, 10, True), (1, 11, False), (2, 1, False), (100, 10, False)],
)
def test_images_may_differ_by_a_grey_level_in_a_pixel_of_a_hundred(difference, count, passed):
    figures = parity.compare(*pixels(difference, count))
    assert figures["passed"] is passed
    assert figures["equal"] == 1 - count / 1000


@pytest.mark.parametrize(
    ("magnitude", "difference", "passed"),
    [(0.5, 0.9e-4, True), (0.5, 1.1e-4, False), (20, 1.9e-3, True), (20, 2.1e-3, False)],
)
def test_floats_may_differ_by_a_ten_thousandth_of_the_largest(magnitude, difference, passed):
    expected = np.array([0.1, -magnitude], "float32")
    received = expected + np.array([difference, 0], "float32")
    assert parity.compare(expected, received)["passed"] is passed


def test_integers_must_be_equal():
    codes = np.arange(1000, dtype="int32")
    assert parity.compare(codes, codes)["passed"]
    other = codes.copy()
    other[7] += 1
    assert not parity.compare(codes, other)["passed"]


def test_what_cannot_be_compared_is_said():
    x = np.zeros((2, 3), "float32")
    assert "is float32 [3, 2] where Keras gives float32 [2, 3]" in parity.compare(x, x.T)
    assert "is float64" in parity.compare(x, x.astype("float64"))
    assert "not finite" in parity.compare(x, x + np.nan)
