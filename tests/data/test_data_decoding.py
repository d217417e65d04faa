import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from kgen.data import decoding
from kgen.data.decoding import decode, probe


def encode(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.fixture
def photo():
    """A smooth picture of 40 rows and 60 columns with an unmistakable orientation."""
    rows, columns = np.mgrid[0:40, 0:60]
    channels = (rows * 6, columns * 4, 255 - rows * 3 - columns * 2)
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


@pytest.mark.parametrize(
    ("format", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 95, "subsampling": 0}, 6),
        ("WEBP", {"quality": 95}, 16),
    ],
)
def test_formats(photo, format, options, tolerance):
    decoded = decode(encode(photo, format, **options), (40, 60, 3))
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - np.asarray(photo)).max() <= tolerance


def test_gif_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode(data, (8, 8, 3)), np.full((8, 8, 3), (255, 0, 0)))


def test_grey_to_colour_and_back():
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4)
    colour = decode(encode(grey, "PNG"), (8, 8, 3))
    np.testing.assert_array_equal(colour, np.asarray(grey)[..., None].repeat(3, -1))
    np.testing.assert_array_equal(decode(colour, (8, 8, 1))[..., 0], np.asarray(grey))


def test_one_bit():
    pattern = np.random.default_rng(0).random((8, 8)) < 0.5
    data = encode(Image.fromarray(pattern), "PNG")
    np.testing.assert_array_equal(decode(data, (8, 8, 1))[..., 0], pattern * 255)


def test_16_bit_grey_is_scaled_and_not_clipped():
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    decoded = decode(encode(Image.fromarray(values), "PNG"), (8, 8, 1))[..., 0]
    np.testing.assert_array_equal(decoded, np.rint(values / 65535 * 255))


def test_palette(photo):
    palette = photo.quantize(16)
    decoded = decode(encode(palette, "PNG"), (40, 60, 3))
    np.testing.assert_array_equal(decoded, np.asarray(palette.convert("RGB")))


def test_cmyk():
    cyan_and_black = Image.new("CMYK", (16, 8), (255, 0, 0, 0))
    cyan_and_black.paste((0, 0, 0, 255), (8, 0, 16, 8))
    decoded = decode(encode(cyan_and_black, "JPEG", quality=100), (8, 16, 3)).astype(int)
    assert np.abs(decoded[:, :7] - (0, 255, 255)).max() < 12
    assert np.abs(decoded[:, 9:]).max() < 12


@pytest.mark.parametrize(
    ("background", "expected"),
    [("white", (255, 255, 255)), ("black", (0, 0, 0)), ("#ff8000", (255, 128, 0))],
)
def test_transparency_is_composited_on_the_background(background, expected):
    rgba = Image.new("RGBA", (8, 8), (0, 0, 255, 0))
    rgba.paste((0, 200, 0, 255), (0, 0, 4, 8))
    rgba.paste((255, 255, 255, 128), (4, 0, 8, 4))
    decoded = decode(encode(rgba, "PNG"), (8, 8, 3), background).astype(int)
    assert (decoded[:, :4] == (0, 200, 0)).all()
    assert (decoded[4:, 4:] == expected).all()
    half = (np.array(expected) + 255) / 2
    assert np.abs(decoded[:4, 4:] - half).max() <= 1


def test_transparency_of_grey_palette_and_colour_key():
    grey = Image.new("LA", (4, 4), (9, 0))
    assert (decode(encode(grey, "PNG"), (4, 4, 1), "white") == 255).all()
    key = encode(Image.new("RGB", (4, 4), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    assert (decode(key, (4, 4, 3), "red") == (255, 0, 0)).all()
    gif = encode(Image.new("RGBA", (4, 4), (9, 9, 9, 0)), "GIF")
    assert (decode(gif, (4, 4, 3), "red") == (255, 0, 0)).all()


def test_four_channels_keep_alpha():
    rgba = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(rgba), "PNG"), (8, 8, 4)), rgba)
    np.testing.assert_array_equal(decode(rgba[..., :3], (8, 8, 4))[..., 3], 255)


def test_colour_of_transparent_pixels_does_not_bleed_when_resizing():
    rgba = np.zeros((16, 16, 4), np.uint8)
    rgba[:, ::2] = (255, 255, 255, 255)  # opaque white between transparent black
    decoded = decode(rgba, (4, 4, 4))
    assert (decoded[..., :3] >= 254).all() and (decoded[..., 3] < 200).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(photo, orientation):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = photo.transpose(undo[orientation]) if orientation > 1 else photo
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(stored, "PNG", exif=exif)
    assert probe(data) == (40, 60, 3)
    np.testing.assert_array_equal(decode(data, (40, 60, 3)), np.asarray(photo))


@pytest.mark.parametrize("shape", [(20, 20, 3), (20, 30, 3), (16, 8, 3), (10, 40, 3), (80, 50, 3)])
def test_centred_crop_of_the_targets_aspect_and_resize(photo, shape):
    decoded = decode(encode(photo, "PNG"), shape)
    expected = ImageOps.fit(photo, (shape[1], shape[0]), Image.Resampling.LANCZOS)
    assert decoded.shape == shape
    assert np.abs(decoded.astype(int) - np.asarray(expected)).max() <= 1


def test_a_crop_that_needs_no_resizing_keeps_the_pixels(random_images):
    (image,) = random_images(1, 33, 48, 3)
    np.testing.assert_array_equal(decode(image, (33, 33, 3)), image[:, 7:40])
    np.testing.assert_array_equal(decode(image[:32], (32, 32, 3)), image[:32, 8:40])
    np.testing.assert_array_equal(decode(image, (33, 48, 3)), image)


def test_shrinking_is_antialiased():
    checkers = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None]
    assert np.abs(decode(checkers, (16, 16, 1)).astype(int) - 127.5).max() < 4


@pytest.mark.parametrize("size", [(1600, 1200), (400, 300)])
def test_reduced_jpeg_decoding_is_as_good_as_a_full_one(size):
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    photo = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    jpeg = decode(encode(photo, "JPEG", quality=95), (48, 48, 3)).astype(int)
    assert np.abs(jpeg - decode(encode(photo, "PNG"), (48, 48, 3))).mean() < 1


@pytest.mark.parametrize(
    ("mode", "channels"), [("1", 1), ("L", 1), ("LA", 1), ("I;16", 1), ("P", 3), ("RGBA", 3)]
)
def test_probe_gives_height_width_and_channels(mode, channels):
    assert probe(encode(Image.new(mode, (7, 5)), "PNG")) == (5, 7, channels)


@pytest.mark.parametrize("orientation", [0, 9, 10, 65535])
def test_an_exif_orientation_that_is_none_turns_nothing(photo, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo, "PNG", exif=exif)
    assert probe(data) == (40, 60, 3)
    np.testing.assert_array_equal(decode(data, (40, 60, 3)), np.asarray(photo))


@pytest.mark.parametrize(
    ("shape", "inside"), [((30, 30, 3), np.s_[5:25]), ((40, 90, 3), np.s_[:, 15:75])]
)
def test_padding_keeps_the_whole_picture(photo, shape, inside):
    decoded = decode(encode(photo, "PNG"), shape, "#0a141e", resize="pad")
    height, width = decoded[inside].shape[:2]
    expected = np.asarray(photo.resize((width, height), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(decoded[inside], expected)
    around = np.ones(shape[:2], bool)
    around[inside] = False
    assert (decoded[around] == (10, 20, 30)).all()


def test_padding_of_grey_and_of_transparency(photo):
    grey = decode(encode(photo, "PNG"), (20, 20, 1), "black", resize="pad")
    assert (grey[:3] == 0).all() and grey[3:17].any()
    rgba = decode(encode(photo, "PNG"), (20, 20, 4), resize="pad")
    assert (rgba[:3] == 0).all() and (rgba[4:16, ..., 3] == 255).all()
    thin = decode(np.full((1, 500, 1), 9, np.uint8), (8, 8, 1), "white", resize="pad")
    assert (thin == 9).any(axis=(1, 2)).tolist() == [False] * 3 + [True] + [False] * 4


def test_stretching(photo):
    decoded = decode(encode(photo, "PNG"), (20, 20, 3), resize="stretch")
    expected = np.asarray(photo.resize((20, 20), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(decoded, expected)


def test_pixel_art_keeps_its_colours(random_images):
    (image,) = random_images(1, 8, 8, 3)
    enlarged = image.repeat(4, 0).repeat(4, 1)
    np.testing.assert_array_equal(decode(image, (32, 32, 3), interpolation="nearest"), enlarged)
    np.testing.assert_array_equal(decode(enlarged, (8, 8, 3), interpolation="nearest"), image)
    jpeg = encode(Image.fromarray(enlarged), "JPEG", quality=100, subsampling=0)
    small = decode(jpeg, (8, 8, 3), interpolation="nearest").astype(int)
    full = decode(jpeg, (32, 32, 3)).astype(int)
    np.testing.assert_array_equal(small, full[2::4, 2::4])


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "I;16", "P", "P with a transparent colour", "RGBA"]
)
@pytest.mark.parametrize("resize", decoding.RESIZES)
@pytest.mark.parametrize("interpolation", decoding.INTERPOLATIONS)
def test_bands_give_the_pixels_of_the_whole(monkeypatch, photo, mode, resize, interpolation):
    options = {}
    if mode == "I;16":
        photo = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    elif mode in ("LA", "RGBA"):
        photo.putalpha(photo.getchannel(0))
        photo = photo.convert(mode)
    elif mode[0] == "P":
        photo = photo.quantize(16)
        options = {"transparency": 3} if mode != "P" else {}
    else:
        photo = photo.convert(mode)
    data = encode(photo, "PNG", **options)
    for shape in ((13, 31, 1), (50, 12, 3), (17, 17, 4), (80, 60, 3)):
        monkeypatch.setattr(decoding, "_BAND", 2**22)
        whole = decode(data, shape, "#0a141e", resize, interpolation)
        monkeypatch.setattr(decoding, "_BAND", 400)
        banded = decode(data, shape, "#0a141e", resize, interpolation)
        np.testing.assert_array_equal(banded, whole)


HUGE = """
import io, resource
from PIL import Image
from kgen.data.decoding import decode, probe
file = io.BytesIO()
Image.new("1", (13_500, 13_500), 1).save(file, "PNG")
try:
    decode(file.getvalue(), (8, 8, 3))
except ValueError as error:
    print(error)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pixels = decode(file.getvalue(), (8, 8, 3), max_pixels=200_000_000)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(file.getvalue()) < 100_000, (pixels == 255).all(), (after - before) // 1024)
print(Image.MAX_IMAGE_PIXELS)
"""


@pytest.mark.slow
def test_a_huge_picture_of_single_bits_takes_a_byte_a_pixel(run_python):
    pytest.importorskip("resource")
    refused, decoded, pillows = run_python(HUGE).stdout.splitlines()
    assert "13500x13500 pixels are more than max_pixels=178956970" in refused
    small, white, megabytes = decoded.split()
    assert small == white == "True"
    assert int(megabytes) < 300, "and not the 730 of four bytes a pixel"
    assert int(pillows) == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("size", [(101, 10), (65535, 65535)])  # beyond Pillow's limit, too
def test_a_picture_of_too_many_pixels_is_refused(size):
    data = bytearray(encode(Image.new("L", (8, 8)), "GIF"))
    data[6:10] = b"".join(side.to_bytes(2, "little") for side in size)
    message = rf"{size[0]}x{size[1]} pixels are more than max_pixels=1000 \(--max-pixels\)"
    for read in (probe, lambda data, **options: decode(data, (8, 8, 1), **options)):
        with pytest.raises(ValueError, match=message):
            read(bytes(data), max_pixels=1000)


def test_probing_decodes_no_pixels_and_still_finds_a_late_orientation(photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    plain, turned = encode(photo, "PNG"), encode(photo, "PNG", exif=exif)
    assert probe(plain[:200]) == (40, 60, 3), "what is cut off has no pixels to decode"
    start = turned.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(turned[start : start + 4])
    late = turned[:start] + turned[end:-12] + turned[start:end] + turned[-12:]  # before IEND
    for data in (turned, late):
        assert probe(data) == (60, 40, 3)
        np.testing.assert_array_equal(decode(data, (60, 40, 3)), np.rot90(np.asarray(photo), -1))
