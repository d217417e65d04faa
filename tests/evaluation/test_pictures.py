import numpy as np
import pytest

from kgen.evaluation import pictures


def numbered(n, size=32, channels=1):
    """Image `i` is all of the value `i`: none is white."""
    values = np.arange(n, dtype="uint8")[:, None, None, None]
    return np.broadcast_to(values, (n, size, size, channels)).copy()


def cells(picture, top=2, left=2, cell=34):
    """The values at the corners of the cells of a grid of 32-pixel images."""
    return picture[top::cell, left::cell, 0]


def test_samples_are_the_first_in_their_order():
    picture = pictures.samples(numbered(200), columns=16)
    assert picture.dtype == np.uint8 and picture.shape == (8 * 34 + 2, 16 * 34 + 2, 1)
    np.testing.assert_array_equal(cells(picture), np.arange(128).reshape(8, 16))


def test_few_samples_leave_no_empty_columns():
    assert pictures.samples(numbered(3)).shape == (36, 3 * 34 + 2, 1)


def test_small_images_are_enlarged_and_large_ones_fewer():
    assert pictures.samples(numbered(20, size=8)).shape == (2 * 34 + 2, 16 * 34 + 2, 1)
    large = pictures.samples(numbered(128, size=256, channels=3))
    assert large.shape == (4 * 258 + 2, 7 * 258 + 2, 3)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_are_kept(channels):
    images = numbered(12, channels=channels)
    labels, indices = np.arange(12) % 3, np.zeros((12, 2), "int64")
    for picture in (
        pictures.samples(images),
        pictures.per_class(images, labels, 3),
        pictures.neighbours(images, images, indices),
        pictures.reconstructions(images, images),
        pictures.ways(images.reshape(3, 4, 32, 32, channels)),
    ):
        assert picture.dtype == np.uint8 and picture.shape[2] == channels


def test_a_row_for_each_class_that_occurs():
    labels = np.array([5, 0, 5, 2, 5, 0])
    picture = pictures.per_class(numbered(6), labels, 7, columns=2)
    np.testing.assert_array_equal(cells(picture), [[1, 5], [3, 255], [0, 2]])


def test_many_classes_are_cut():
    images = numbered(200)
    assert pictures.per_class(images, np.arange(200), 200).shape[0] == 20 * 34 + 2
    large = numbered(200, size=128)
    assert pictures.per_class(large, np.arange(200), 200).shape[0] == 15 * 130 + 2


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0, 3], r"Labels must be 0 to 2\. Received: 0 to 3"), ([0], r"Received: labels of shape")],
)
def test_wrong_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        pictures.per_class(numbered(2), labels, 3)


def test_neighbours_stand_right_of_their_image():
    train = numbered(100)
    indices = np.array([[9, 8, 7], [50, 40, 30]])
    picture = pictures.neighbours(train[[3, 4]], train, indices)
    width = 36 + 10 + 3 * 34 + 2
    assert picture.shape == (2 * 34 + 2, width, 1)
    np.testing.assert_array_equal(cells(picture[:, :36]), [[3], [4]])
    assert (picture[:, 36:46] == 255).all()
    np.testing.assert_array_equal(cells(picture[:, 46:]), indices)


def test_reconstructions_stand_below():
    images = numbered(10)
    picture = pictures.reconstructions(images, images + np.uint8(100), columns=6)
    height = 2 * 34 + 2
    assert picture.shape == (2 * height + 10, 6 * 34 + 2, 1)
    first, second = picture[:height], picture[height + 10 :]
    np.testing.assert_array_equal(cells(first), [range(6), range(100, 106)])
    white = [255, 255]
    expected = [[6, 7, 8, 9, *white], [106, 107, 108, 109, *white]]
    np.testing.assert_array_equal(cells(second), expected)
    assert pictures.reconstructions(images, images, columns=16).shape[1] == 10 * 34 + 2
    with pytest.raises(ValueError, match="shape of the images"):
        pictures.reconstructions(images, images[:9])


def test_ways_are_rows():
    picture = pictures.ways(numbered(12).reshape(3, 4, 32, 32, 1))
    np.testing.assert_array_equal(cells(picture), np.arange(12).reshape(3, 4))
