import os
import warnings

import numpy as np
import pytest
from PIL import Image

import kgen.data


def all_images(data):
    splits = (data.train, data.validation, data.test)
    return np.concatenate([split.images for split in splits if split is not None])


def same_images(left, right):
    return sorted(image.tobytes() for image in left) == sorted(image.tobytes() for image in right)


def test_flat_folder(make_folder, random_images):
    images = random_images(20, 8, 10, 3)
    folder = make_folder({f"{i:02}.png": image for i, image in enumerate(images)})
    data = kgen.data.load(folder)
    assert data.name == "pictures" and data.source == str(folder)
    assert data.image_shape == (8, 10, 3)
    assert (len(data.train), len(data.validation), len(data.test)) == (16, 2, 2)
    assert data.train.labels is None and data.class_names is None and data.num_classes is None
    assert data.skipped == []
    assert same_images(all_images(data), images)


def test_one_subfolder_per_class(make_folder, random_images):
    images = random_images(30, 8, 8, 3)
    names = ["dog", "Cat", "bird"]
    folder = make_folder({f"{names[i % 3]}/{i}.png": image for i, image in enumerate(images)})
    data = kgen.data.load(str(folder))
    assert data.class_names == ["Cat", "bird", "dog"] and data.num_classes == 3
    number = {image.tobytes(): i for i, image in enumerate(images)}
    for split in (data.train, data.validation, data.test):
        for image, label in zip(split.images, split.labels, strict=True):
            assert data.class_names[label] == names[number[image.tobytes()] % 3]


@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
@pytest.mark.parametrize("classes", [False, True])
def test_given_splits_are_kept(make_folder, random_images, validation, classes):
    images = {
        top: random_images(6, 8, 8, 1, seed=i)
        for i, top in enumerate(("train", validation, "test"))
    }
    folder = make_folder(
        {
            f"{top}/{'ab'[i % 2] + '/' if classes else ''}{i}.png": image
            for top in images
            for i, image in enumerate(images[top])
        }
    )
    data = kgen.data.load(folder)
    assert same_images(data.train.images, images["train"])
    assert same_images(data.validation.images, images[validation])
    assert same_images(data.test.images, images["test"])
    assert data.class_names == (["a", "b"] if classes else None)
    if classes:
        assert data.test.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_missing_validation_is_carved_from_train_and_the_given_test_is_kept(
    make_folder, random_images
):
    train, test = random_images(40, 8, 8, 1), random_images(7, 8, 8, 1, seed=1)
    files = {f"train/{i}.png": image for i, image in enumerate(train)}
    files |= {f"test/{i}.png": image for i, image in enumerate(test)}
    folder = make_folder(files)
    data = kgen.data.load(folder, validation_fraction=0.25)
    assert same_images(data.test.images, test)
    assert (len(data.train), len(data.validation)) == (30, 10)
    assert same_images(np.concatenate([data.train.images, data.validation.images]), train)
    assert kgen.data.load(folder, validation_fraction=0).validation is None


def test_carving_depends_on_the_seed_alone(make_folder, random_images):
    images = random_images(50, 4, 4, 1)
    folder = make_folder({f"{i:02}.png": image for i, image in enumerate(images)})
    again = make_folder({f"{i:02}.png": image for i, image in enumerate(images)}, "copy")
    first, second = kgen.data.load(folder, seed=3), kgen.data.load(again, seed=3)
    np.testing.assert_array_equal(first.test.images, second.test.images)
    assert first.fingerprint == second.fingerprint
    other = kgen.data.load(folder, seed=4)
    assert not same_images(first.test.images, other.test.images)
    assert first.fingerprint != other.fingerprint


@pytest.mark.parametrize("tops", [("Train", "TEST"), ("TRAIN", "Val", "test"), ("Train",)])
@pytest.mark.parametrize("wrapping", ["", "data/", "set/v1/"])
def test_splits_in_capitals_and_in_a_wrapping_folder(make_folder, random_images, tops, wrapping):
    images = {top: random_images(12, 8, 8, 3, seed=i) for i, top in enumerate(tops)}
    files = {
        f"{wrapping}{top}/{'ab'[i % 2]}/{i}.png": image
        for top in tops
        for i, image in enumerate(images[top])
    }
    data = kgen.data.load(make_folder(files))
    assert data.class_names == ["a", "b"] and data.skipped == []
    for top in tops[1:]:
        split = data.split({"val": "validation"}.get(top.lower(), "test"))
        assert same_images(split.images, images[top])
    assert len(data.train) == (12 if len(tops) == 3 else 11 if len(tops) == 2 else 10)


def test_a_wrapping_folder_is_no_class_but_one_with_images_is(make_folder, random_images):
    images = random_images(20, 8, 8, 3)
    files = {f"data/{'ab'[i % 2]}/{i}.png": image for i, image in enumerate(images)}
    folder = make_folder(files | {"LICENSE": b"", "data/labels.csv": b""}, "wrapped")
    with pytest.warns(UserWarning, match="2 files of .* are no images and left out: LICENSE, data"):
        data = kgen.data.load(folder, strict=True)
    assert data.class_names == ["a", "b"]
    one = make_folder({f"cat/{i}.png": image for i, image in enumerate(images)}, "one")
    assert kgen.data.load(one).class_names == ["cat"]


def test_a_class_that_train_lacks_is_told(make_folder, random_images):
    images = iter(random_images(40, 8, 8, 3))
    files = {f"train/{name}/{i}.png": next(images) for name in "ac" for i in range(10)}
    files |= {f"test/{name}/{i}.png": next(images) for name in "ab" for i in range(2)}
    folder = make_folder(files)
    for _ in range(2):  # from the cache, too
        with pytest.warns(UserWarning, match="no training image of b, which test/ has"):
            assert kgen.data.load(folder).class_names == ["a", "b", "c"]


def test_recursive_takes_images_anywhere_and_no_classes(make_folder, random_images):
    images = random_images(20, 8, 8, 3)
    names = ("a.png", "stray/b.png", "stray/deep/c.png", "other/d.png")
    files = {f"{i}-{names[i % 4]}": image for i, image in enumerate(images)}
    data = kgen.data.load(make_folder(files), recursive=True)
    assert data.class_names is None and data.train.labels is None
    assert same_images(all_images(data), images)
    classes = {f"{'ab'[i % 2]}/{i}.png": image for i, image in enumerate(images)}
    folder = make_folder(classes, "classes")
    assert kgen.data.load(folder).num_classes == 2
    assert kgen.data.load(folder, recursive=True).num_classes is None
    splits = {
        f"{top}/x/{path}": image for top in ("train", "test") for path, image in files.items()
    }
    data = kgen.data.load(make_folder(splits, "splits"), recursive=True)
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 2, 20)


def test_links_that_lead_in_a_circle_are_left_out(make_folder, random_images):
    images = random_images(20, 8, 8, 3)
    folder = make_folder({f"{'ab'[i % 2]}/{i}.png": image for i, image in enumerate(images)})
    (folder / "a" / "up").symlink_to("..", target_is_directory=True)
    (folder / "out").symlink_to(folder.parent, target_is_directory=True)
    (folder / "self").symlink_to("self")
    (folder / "a" / "b").symlink_to("../b", target_is_directory=True)  # a link to elsewhere
    (folder / "b" / "a").symlink_to("../a", target_is_directory=True)
    with pytest.warns(UserWarning) as warned:
        data = kgen.data.load(folder, strict=True, validation_fraction=0, test_fraction=0)
    (message,) = (str(warning.message) for warning in warned)
    assert message.startswith(f"6 files of {folder} are no images"), "up, out, self, and in circles"
    assert "a/up (a link to a folder that it lies in)" in message
    assert data.class_names == ["a", "b"]
    assert len(data.train) == 40, "each image in its own folder and through the link beside it"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_never_opened(make_folder, random_images, tmp_path):
    images = random_images(20, 8, 8, 3)
    folder = make_folder({f"{i}.png": image for i, image in enumerate(images)})
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").symlink_to("pipe.png")
    with pytest.warns(UserWarning, match=r"link.png \(a device, a pipe .*pipe.png \(a device"):
        data = kgen.data.load(folder, strict=True)
    assert same_images(all_images(data), images)
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(ValueError, match=r"pipe.npz is a device, a pipe or a socket"):
        kgen.data.load(tmp_path / "pipe.npz")


def test_what_is_no_image_is_not_in_the_way(make_folder, random_images, cache_folder):
    images = random_images(20, 8, 8, 3)
    folder = make_folder({f"{i}.png": image for i, image in enumerate(images)})
    (folder / "labels.csv").write_text("0,cat")
    with pytest.warns(UserWarning, match=r"1 file .* is no image and left out: labels.csv\."):
        assert kgen.data.load(folder, strict=True).skipped == []
    (folder / "labels.csv").write_text("0,cat\n1,dog")
    with pytest.warns(UserWarning, match="labels.csv"):
        kgen.data.load(folder)
    assert len(list((cache_folder / "data").iterdir())) == 1
    (folder / "photo.tif").write_bytes(b"II*")  # a picture, and lost if nobody says so
    with pytest.raises(ValueError, match=r"1 file of .* could not be read \(photo.tif: not a .png"):
        kgen.data.load(folder, strict=True)


@pytest.mark.parametrize("image_shape", [None, (8, 8, 3)])
def test_a_picture_of_too_many_pixels_is_named(make_folder, random_images, image_shape):
    files = {f"{i}.png": image for i, image in enumerate(random_images(20, 8, 8, 3))}
    folder = make_folder(files | {"large.png": np.zeros((10, 20, 3), np.uint8)})
    with pytest.warns(UserWarning, match=r"large.png: its 20x10 pixels .*max_pixels=100 \(--max"):
        data = kgen.data.load(folder, image_shape, max_pixels=100)
    assert len(all_images(data)) == 20
    assert len(all_images(kgen.data.load(folder, (8, 8, 3)))) == 21


def test_resize_and_interpolation_reach_the_images(make_folder):
    stripes = np.zeros((8, 16, 3), np.uint8)
    stripes[:, ::2] = 200
    folder = make_folder({f"{i}.png": stripes for i in range(10)})
    seen = {
        (resize, interpolation): kgen.data.load(
            folder, (8, 8, 3), background="red", resize=resize, interpolation=interpolation
        ).train.images[0]
        for resize in ("crop", "pad", "stretch")
        for interpolation in ("lanczos", "nearest")
    }
    assert len({image.tobytes() for image in seen.values()}) == 5  # a crop needs no resizing here
    assert (seen["crop", "lanczos"] == stripes[:, 4:12]).all()
    assert (seen["pad", "nearest"][:2] == (255, 0, 0)).all()
    assert set(np.unique(seen["stretch", "nearest"])) <= {0, 200}


def test_a_class_may_be_called_train(make_folder, random_images):
    images = random_images(12, 8, 8, 3)
    names = ["bus", "train"]
    folder = make_folder({f"{names[i % 2]}/{i}.png": image for i, image in enumerate(images)})
    assert kgen.data.load(folder).class_names == names


def test_images_of_any_size_and_format_are_brought_to_one_shape(make_folder):
    red = Image.new("RGB", (300, 40), "red")
    folder = make_folder({"0.bmp": np.full((64, 64, 1), 76, np.uint8)})
    red.save(folder / "1.png")
    red.resize((7, 5)).save(folder / "2.jpg")
    red.resize((16, 16)).convert("RGBA").save(folder / "3.webp", lossless=True)
    red.resize((33, 90)).convert("CMYK").save(folder / "4.JPEG")
    red.resize((24, 16)).save(folder / "5.gif")
    data = kgen.data.load(folder, (16, 24, 1), validation_fraction=0, test_fraction=0)
    assert data.train.images.shape == (6, 16, 24, 1)
    assert np.abs(data.train.images.astype(int) - 76).max() < 5  # the grey of red is 76
    data = kgen.data.load(folder, (24, 16, 4), validation_fraction=0, test_fraction=0)
    assert data.train.images.shape == (6, 24, 16, 4) and (data.train.images[..., 3] == 255).all()
    assert np.abs(data.train.images[1:].astype(int) - (255, 0, 0, 255)).max() < 5


def test_image_shape_is_inferred_when_all_files_have_one_size(make_folder, random_images):
    grey = {f"{i}.png": image for i, image in enumerate(random_images(5, 8, 6, 1))}
    assert kgen.data.load(make_folder(grey, "grey")).image_shape == (8, 6, 1)
    mixed = grey | {"colour.png": random_images(1, 8, 6, 3)[0]}
    assert kgen.data.load(make_folder(mixed, "mixed")).image_shape == (8, 6, 3)
    rgba = {f"{i}.png": image for i, image in enumerate(random_images(5, 8, 6, 4))}
    assert kgen.data.load(make_folder(rgba, "rgba")).image_shape == (8, 6, 3)


def test_background_reaches_the_images(make_folder):
    folder = make_folder({f"{i}.png": np.zeros((4, 4, 4), np.uint8) for i in range(3)})
    assert (kgen.data.load(folder).train.images == 255).all()
    assert (kgen.data.load(folder, background="#0a141e").train.images == (10, 20, 30)).all()


def test_unreadable_files_are_skipped_and_named(make_folder, random_images):
    images = random_images(40, 32, 32, 3)
    folder = make_folder({f"{i:02}.png": image for i, image in enumerate(images)})
    whole = (folder / "03.png").read_bytes()
    (folder / "03.png").write_bytes(whole[: len(whole) // 2])
    (folder / "04.jpg").write_bytes(b"this is not an image")
    (folder / "05.gif").write_bytes(b"")
    (folder / "notes.txt").write_text("hello")
    with pytest.warns(UserWarning) as warned:
        data = kgen.data.load(folder, (32, 32, 3))
    other, message = (str(warning.message) for warning in warned)
    assert other == f"1 file of {folder} is no image and left out: notes.txt."
    assert message.startswith(f"3 files of {folder} could not be read (") and "\n" not in message
    reasons = dict(data.skipped)
    assert set(reasons) == {"03.png", "04.jpg", "05.gif"}
    assert "truncated" in reasons["03.png"]
    assert reasons["04.jpg"] == "not a PNG, JPEG, WebP, GIF or BMP file"
    assert same_images(all_images(data), np.delete(images, 3, axis=0))
    with pytest.warns(UserWarning, match="3 files"):  # from the cache, too
        assert kgen.data.load(folder, (32, 32, 3)).skipped == data.skipped
    with pytest.raises(ValueError, match=r"3 files of .* could not be read .*strict=False"):
        kgen.data.load(folder, (32, 32, 3), strict=True)
    with pytest.warns(UserWarning, match="3 files"):
        assert kgen.data.load(folder).image_shape == (32, 32, 3)


def test_a_dangling_link_is_skipped(make_folder, random_images):
    folder = make_folder(
        {f"{i:02}.png": image for i, image in enumerate(random_images(30, 8, 8, 3))}
    )
    (folder / "lost.png").symlink_to(folder / "nowhere.png")
    with pytest.warns(UserWarning, match=r"1 file of .* \(lost.png: .*No such file"):
        data = kgen.data.load(folder, (8, 8, 3))
    assert [path for path, _ in data.skipped] == ["lost.png"]


def test_no_progress_bar_in_a_log(make_folder, random_images, run_python):
    folder = make_folder({f"{i}.png": image for i, image in enumerate(random_images(9, 8, 8, 3))})
    result = run_python("import sys, kgen.data; kgen.data.load(sys.argv[1])", folder)
    assert result.stdout == result.stderr == ""


def test_strict_accepts_a_good_folder_and_hidden_files_are_ignored(make_folder, random_images):
    files = {f"{i}.png": image for i, image in enumerate(random_images(5, 8, 8, 3))}
    folder = make_folder(files | {".DS_Store": b"x", "__MACOSX/0.png": b"x", ".git/0.png": b"x"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kgen.data.load(folder, strict=True).skipped == []


def test_files_beside_the_splits_are_skipped(make_folder, random_images):
    files = {
        f"{top}/{i}.png": image
        for top in ("train", "test")
        for i, image in enumerate(random_images(5, 8, 8, 3))
    }
    folder = make_folder(files | {"logo.png": random_images(1, 8, 8, 3)[0], "extra/1.png": b"x"})
    with pytest.warns(UserWarning, match="2 files"):
        data = kgen.data.load(folder)
    assert [path for path, _ in data.skipped] == ["extra/1.png", "logo.png"]


def test_folder_without_images(make_folder):
    with pytest.raises(ValueError, match=r"pictures holds no image; expected \.png"):
        kgen.data.load(make_folder({"notes.txt": b"hello"}))
    with pytest.raises(ValueError, match="test holds no image"):
        kgen.data.load(make_folder({"train/0.png": b"", "test/x.txt": b""}, "splits"))


@pytest.mark.parametrize("image_shape", [None, (8, 8, 3)])
def test_folder_where_every_file_is_bad(make_folder, cache_folder, image_shape):
    folder = make_folder({f"{i}.png": b"not an image" for i in range(5)})
    with pytest.raises(ValueError, match=r"in .*pictures|of .*pictures"):
        kgen.data.load(folder, image_shape)
    left = {path for path in cache_folder.rglob("*") if path.is_file()}
    assert left == set(cache_folder.rglob("locks/*.lock")), "but for empty locks"


def test_mixed_sizes_without_image_shape(make_folder, random_images):
    folder = make_folder(
        {"a.png": random_images(1, 8, 6, 3)[0], "b.png": random_images(1, 9, 6, 3)[0]}
    )
    with pytest.raises(ValueError, match=r"a.png has 8x6 .* b.png has 9x6; pass image_shape"):
        kgen.data.load(folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a.png", "cats/b.png"], "but a.png lies in none; .*--recursive"),
        (["train/cats/a.png", "test/b.png"], "has class subfolders, but test/b.png lies in none"),
        (["test/a.png", "val/b.png"], "has test, val but no train"),
        (["train/a.png", "val/b.png", "validation/c.png"], "two folders for validation"),
        (["train/a.png", "test/b.png", "TEST/c.png"], r"two folders for test \(TEST, test\)"),
    ],
)
def test_layouts_that_mean_nothing(make_folder, random_images, files, message):
    folder = make_folder(dict(zip(files, random_images(len(files), 8, 8, 3), strict=True)))
    with pytest.raises(ValueError, match=message):
        kgen.data.load(folder)


def test_too_few_images_to_split(make_folder, random_images):
    folder = make_folder({f"{i}.png": image for i, image in enumerate(random_images(2, 8, 8, 3))})
    with pytest.raises(ValueError, match="2 training images are too few to make test and valid"):
        kgen.data.load(folder)
    assert len(kgen.data.load(folder, validation_fraction=0, test_fraction=0).train) == 2
