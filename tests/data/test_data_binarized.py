import numpy as np

from kgen.data import Split


def test_binarized_draws_once_with_the_grey_level_as_probability():
    levels = np.repeat(np.arange(256, dtype="uint8"), 3000).reshape(1000, 16, 16, 3)
    split = Split(levels, np.zeros(1000, "int32"), horizontal_flip=True)
    drawn = split.binarized(seed=1)
    assert set(np.unique(drawn.images)) == {0, 255} and drawn.images.dtype == np.uint8
    share = (drawn.images.ravel() > 0).reshape(256, 3000).mean(axis=1)
    assert np.abs(share - np.arange(256) / 255).max() < 5 * 0.5 / np.sqrt(3000)
    assert share[0] == 0 and share[255] == 1
    assert drawn.horizontal_flip and drawn.labels is not None
    np.testing.assert_array_equal(drawn.images, split.binarized(seed=1).images)
    assert (drawn.images != split.binarized(seed=2).images).any()
    np.testing.assert_array_equal(drawn.binarized(seed=3).images, drawn.images)
