"""Patches against NumPy, and what encoder and decoder of vision transformers look at."""

import itertools

import numpy as np
import pytest
from keras import ops

from kgen.layers.transformer import TransformerSpec
from kgen.layers.vit import (
    GridPositions,
    build_vit_decoder,
    build_vit_encoder,
    check_patches,
    patchify,
    unpatchify,
)

SPEC = TransformerSpec(16, 2, 2)
RNG = np.random.default_rng(0)


def numpy(x):
    return ops.convert_to_numpy(x)


@pytest.mark.parametrize("shape, patch_size", [((8, 12, 3), 4), ((6, 4, 1), 2), ((5, 3, 2), 1)])
def test_patches_against_slices(shape, patch_size):
    images = RNG.normal(size=(2, *shape)).astype("float32")
    tokens = numpy(patchify(ops.convert_to_tensor(images), patch_size))
    corners = itertools.product(*(range(0, side, patch_size) for side in shape[:2]))
    patches = [images[:, i : i + patch_size, j : j + patch_size] for i, j in corners]
    expected = np.stack([patch.reshape(2, -1) for patch in patches], axis=1)
    np.testing.assert_array_equal(tokens, expected)
    again = unpatchify(ops.convert_to_tensor(tokens), patch_size, *shape[:2])
    np.testing.assert_array_equal(numpy(again), images)


def test_positions_are_those_of_row_and_column():
    layer = GridPositions(2, 3)
    x = np.zeros((1, 6, 4), "float32")
    layer(x)
    rows, columns = RNG.normal(size=(2, 4)), RNG.normal(size=(3, 4))
    layer.rows.assign(rows[:, None])
    layer.columns.assign(columns)
    places = itertools.product(range(2), range(3))
    expected = [rows[i] + columns[j] for i, j in places]
    np.testing.assert_allclose(numpy(layer(x))[0], expected, atol=1e-6)


def test_every_place_of_the_map_sees_every_patch():
    network = build_vit_encoder((8, 12, 1), None, 5, 4, SPEC)
    image = RNG.normal(size=(1, 8, 12, 1)).astype("float32")
    before = numpy(network([image]))
    assert before.shape == (1, 2, 3, 5)
    for i, j in itertools.product(range(2), range(3)):
        other = image.copy()
        other[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] += 1
        difference = np.abs(numpy(network([other])) - before).max(axis=-1)
        assert (difference > 1e-5).all(), (i, j)


def test_every_pixel_sees_every_place_of_the_map():
    network = build_vit_decoder((8, 12, 3), None, 5, 4, SPEC)
    latents = RNG.normal(size=(1, 2, 3, 5)).astype("float32")
    before = numpy(network([latents]))
    assert before.shape == (1, 8, 12, 3)
    for i, j in itertools.product(range(2), range(3)):
        other = latents.copy()
        other[:, i, j] += 1
        difference = np.abs(numpy(network([other])) - before)
        assert (difference > 0).all(), (i, j)


def test_places_are_told_apart():
    """Equal patches, of an image or of a map, get outputs of their own."""
    for build, shape in ((build_vit_encoder, (8, 12, 1)), (build_vit_decoder, (2, 3, 5))):
        network = build((8, 12, 1), None, 5, 4, SPEC)
        outputs = numpy(network([np.ones((1, *shape), "float32")]))
        tokens = outputs if build is build_vit_encoder else patchify(outputs, 4)
        tokens = numpy(tokens).reshape(6, -1)
        distances = np.abs(tokens[:, None] - tokens).max(axis=-1)
        assert (distances[~np.eye(6, dtype=bool)] > 1e-4).all()


def test_the_class_is_told_to_both():
    one_hot = np.eye(3, dtype="float32")
    spec = TransformerSpec(16, 2, 2, mlp="swiglu", norm="rms")
    for build, shape in ((build_vit_encoder, (8, 8, 1)), (build_vit_decoder, (2, 2, 5))):
        network = build((8, 8, 1), 3, 5, 4, spec)
        outputs = numpy(network([np.ones((3, *shape), "float32"), one_hot]))
        assert all((outputs[i] != outputs[i - 1]).all() for i in range(3))


@pytest.mark.parametrize(
    "patch_size, message",
    [
        (3, "divide the image's sides. Received: patch_size=3"),
        (0, "positive int. Received: patch_size=0"),
    ],
)
def test_bad_patches(patch_size, message):
    with pytest.raises(ValueError, match=message):
        check_patches((8, 8, 1), patch_size)
