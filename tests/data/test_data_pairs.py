"""Pairs: folders of partners, pictures side by side, two heaps; and what is no pair, in a line."""

import numpy as np
import pytest
from PIL import Image

import kgen
from kgen.data import Split, load_pairs


@pytest.fixture
def folders(make_folder):
    """Folders `inputs` and `images` of 40 partners: an image is 255 less its input."""

    def make(count=40, side=8, more=()):
        inputs = {f"{i:02}.png": np.full((side, side, 3), 3 * i, "uint8") for i in range(count)}
        images = {f"{i:02}.jpg": 255 - inputs[f"{i:02}.png"] for i in range(count)}
        for name, content in more:
            (inputs if name.startswith("inputs") else images)[name.partition("/")[2]] = content
        return make_folder(inputs, "inputs"), make_folder(images, "images")

    return make


def are_partners(split):
    sums = split.inputs.astype(int).mean(axis=(1, 2, 3)) + split.images.mean(axis=(1, 2, 3))
    return np.abs(sums - 255).max() < 2


def test_partners_by_name(folders):
    inputs, images = folders()
    data = load_pairs(inputs, images, progress=False)
    assert (len(data.train), len(data.validation), len(data.test)) == (32, 4, 4)
    assert data.input_shape == data.image_shape == (8, 8, 3)
    assert all(map(are_partners, (data.train, data.validation, data.test)))
    assert data.name == "inputs-images" and not data.skipped
    again = load_pairs(inputs, images, progress=False)  # from the cache
    assert again.fingerprint == data.fingerprint
    np.testing.assert_array_equal(again.train.inputs, data.train.inputs)
    assert load_pairs(images, inputs, progress=False).fingerprint != data.fingerprint


def test_splits_of_the_folders(make_folder):
    grey = {f"{s}/{i}.png": np.full((8, 8, 1), i, "uint8") for s in ("train", "test") for i in "12"}
    inputs = make_folder(grey, "inputs")
    images = make_folder({k: np.full((16, 16, 3), 9, "uint8") for k in grey}, "images")
    data = load_pairs(inputs, images, validation_fraction=0, progress=False)
    assert (len(data.train), len(data.test)) == (2, 2)
    assert data.input_shape == (8, 8, 1) and data.image_shape == (16, 16, 3)


def test_side_by_side(make_folder):
    files = {}
    for i in range(20):
        left, right = np.full((8, 8, 3), 10 * i, "uint8"), np.full((8, 8, 3), 255 - 10 * i, "uint8")
        files[f"{i:02}.png"] = np.concatenate([left, right], axis=1)
    folder = make_folder(files)
    data = load_pairs(folder, progress=False)
    assert data.image_shape == (8, 8, 3) and are_partners(data.train)
    swapped = load_pairs(folder, swap=True, progress=False)
    np.testing.assert_array_equal(swapped.train.inputs, data.train.images)
    np.testing.assert_array_equal(swapped.train.images, data.train.inputs)


def test_two_heaps(folders):
    inputs, images = folders(more=[("inputs/x1.png", np.zeros((8, 8, 3), "uint8"))])
    data = load_pairs(inputs, images, paired=False, progress=False)
    assert len(data.train.inputs) == 33 and len(data.train.images) == 32
    assert not data.train.paired
    batches = data.train.batches(8, seed=1)
    assert len(batches) == 4
    seen = []
    for _ in range(12):  # three epochs, in which the shorter side begins again
        seen += [batches[i] for i in range(len(batches))]
        batches.epoch += 1
    for side, array in enumerate((data.train.inputs, data.train.images)):
        rows = np.concatenate([batch[side] for batch in seen])[: 3 * len(array)]
        for start in range(0, len(rows), len(array)):  # each round has every row once
            found = sorted(rows[start : start + len(array)].mean(axis=(1, 2, 3)))
            assert found == sorted(array.mean(axis=(1, 2, 3)))
    assert not np.array_equal(seen[0][0].mean(axis=(1, 2, 3)), seen[4][0].mean(axis=(1, 2, 3)))


def test_batches_keep_partners_together(folders):
    data = load_pairs(*folders(), horizontal_flip=True, progress=False)
    for inputs, images in (data.train.batches(8, seed=3)[i] for i in range(4)):
        assert are_partners(Split(images, inputs=inputs))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, 4, 4, 1), "uint8")
    split = Split(images, inputs=255 - images, horizontal_flip=True)
    given, wanted = split.batches(16, seed=0)[0]
    np.testing.assert_array_equal(given, 255 - wanted)  # mirrored alike
    assert (wanted[:, :, ::-1].reshape(16, -1)[:, None] == images.reshape(16, -1)).all(-1).any()


def test_groups_go_into_one_split(make_folder):
    names = [f"{who}-{tone}" for who in range(20) for tone in "abc"]
    files = {f"{n}.png": np.full((8, 8, 3), i, "uint8") for i, n in enumerate(names)}
    inputs, images = make_folder(files, "inputs"), make_folder(files, "images")

    def people(split):
        return {int(value) // 3 for value in split.images[:, 0, 0, 0]}

    for group_by in ("-[abc]$", lambda name: name.partition("-")[0]):
        data = load_pairs(inputs, images, group_by=group_by, progress=False)
        train, validation, test = map(people, (data.train, data.validation, data.test))
        assert (len(train), len(validation), len(test)) == (16, 2, 2)
        assert len(data.test) == 6 and not train & test and not train & validation
    plain = load_pairs(inputs, images, progress=False)
    assert people(plain.train) & people(plain.test)


def test_a_pair_that_cannot_be_read_is_left_out_and_named(folders):
    inputs, images = folders(more=[("images/07.jpg", b"no picture")])
    with pytest.warns(UserWarning, match="07: not a PNG"):
        data = load_pairs(inputs, images, progress=False)
    assert data.count() == 39 and are_partners(data.train)
    assert [name for name, _ in data.skipped] == ["07"]
    with pytest.raises(ValueError, match=r"1 pairs could not be read \(the first: 07"):
        load_pairs(inputs, images, strict=True, progress=False)


def test_a_missing_partner(folders):
    inputs, images = folders(more=[("inputs/99.png", np.zeros((8, 8, 3), "uint8"))])
    with pytest.raises(ValueError, match=r"1 of 41 images in .*inputs have no partner .*: 99"):
        load_pairs(inputs, images, progress=False)
    (inputs / "99.png").unlink()
    (inputs / "03.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 40 images in .*images have no partner .*: 03"):
        load_pairs(inputs, images, progress=False)


def test_a_pair_of_two_aspect_ratios(folders):
    inputs, images = folders(more=[("images/05.jpg", np.zeros((8, 12, 3), "uint8"))])
    with pytest.raises(ValueError, match=r"The pair 05 is of two aspect ratios: 8x8 .* and 8x12"):
        load_pairs(inputs, images, (8, 8, 3), progress=False)
    data = load_pairs(inputs, images, (8, 8, 3), resize="stretch", progress=False)
    assert data.count() == 40


def test_other_channels(folders, make_folder):
    """Each side has its own; what is asked for is what comes."""
    inputs, images = folders()
    grey = {f"{i:02}.png": np.full((8, 8, 1), 3 * i, "uint8") for i in range(40)}
    data = load_pairs(make_folder(grey, "grey"), images, progress=False)
    assert data.input_shape == (8, 8, 1) and data.image_shape == (8, 8, 3)
    data = load_pairs(inputs, images, (8, 8, 4), input_shape=(4, 4, 2), progress=False)
    assert data.input_shape == (4, 4, 2) and data.image_shape == (8, 8, 4)
    assert (data.train.inputs[..., 1] == 255).all() and (data.train.images[..., 3] == 255).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (8, 8, 5)}, "input_shape must be .* with 1, 2, 3 or 4 channels"),
        ({"swap": True}, "swap is for pictures side by side"),
        ({"paired": False, "group_by": "x"}, "group_by is for pairs"),
        ({"resize": "squash"}, "Unknown resize 'squash'"),
    ],
)
def test_wrong_arguments(folders, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_pairs(*folders(), **arguments, progress=False)


def test_an_empty_folder(folders, tmp_path):
    inputs, _ = folders()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no image"):
        load_pairs(inputs, tmp_path / "empty", progress=False)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_pairs(inputs, tmp_path / "nowhere" / "x", progress=False)


def test_two_images_of_one_name(folders):
    inputs, images = folders(more=[("inputs/04.jpg", np.zeros((8, 8, 3), "uint8"))])
    with pytest.raises(ValueError, match=r"two images of one name, .*04.jpg and .*04.png"):
        load_pairs(inputs, images, progress=False)


def test_nothing_is_half_written(folders, cache_folder):
    inputs, images = folders(more=[("images/05.jpg", np.zeros((8, 12, 3), "uint8"))])
    with pytest.raises(ValueError, match="two aspect ratios"):
        load_pairs(inputs, images, (8, 8, 3), progress=False)
    left = [path for path in cache_folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == []


def test_arrays():
    images = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 3), "uint8")
    data = load_pairs(images[..., :1], images, progress=False)
    assert data.input_shape == (4, 4, 1) and data.count() == 30
    np.testing.assert_array_equal(data.test.inputs, data.test.images[..., :1])
    with pytest.raises(ValueError, match=r"10 of 30 images .* have no partner"):
        load_pairs(images, images[:20], progress=False)


def test_splits_with_inputs():
    images, inputs = np.zeros((6, 4, 4, 3), "uint8"), np.zeros((6, 2, 2, 2), "uint8")
    split = Split(images, inputs=inputs)
    assert split.input_shape == (2, 2, 2) and "inputs=uint8 [6, 2, 2, 2]" in repr(split)
    part = split.part(slice(2))
    assert len(part) == 2 and len(part.inputs) == 2
    with pytest.raises(ValueError, match="one input for each of 6 images"):
        Split(images, inputs=inputs[:3])
    with pytest.raises(ValueError, match="has no labels"):
        Split(images, np.zeros(6, int), inputs=inputs)
    heaps = Split(images, inputs=inputs[:3], paired=False)
    with pytest.raises(ValueError, match="no pairs have no rows in common"):
        heaps.part(slice(2))


def test_a_picture_keeps_its_pixels(make_folder):
    """Halves and grey with alpha come as they are in the file."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 10, 2), "uint8")
    folder = make_folder({})
    folder.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(folder / "a.png")
    found = kgen.data.decoding.decode(str(folder / "a.png"), (6, 10, 2))
    np.testing.assert_array_equal(found, pixels)
    half = kgen.data.decoding.Half(str(folder / "a.png"), True)
    np.testing.assert_array_equal(kgen.data.decoding.decode(half, (6, 5, 2)), pixels[:, 5:])
    assert kgen.data.decoding.probe(half)[:2] == (6, 5)
