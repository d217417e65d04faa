"""Figures of translators: what they are of, and what stands beside them."""

import keras
import numpy as np
import pytest

import kgen
from kgen.data import Split
from kgen.evaluation import pairs, translation

RNG = np.random.default_rng(0)


def images_of(count, *shape):
    return RNG.integers(0, 256, (count, *shape), "uint8")


@pytest.fixture(scope="module")
def restorer():
    keras.utils.set_random_seed(0)
    return kgen.models.Restorer((16, 16, 3), degradation="noise:25", filters=8, middle_blocks=1)


def test_colourfulness_is_that_of_the_paper():
    images = images_of(5, 8, 8, 3).astype("float64")
    expected = []
    for image in images:
        first = (image[..., 0] - image[..., 1]).ravel()
        second = (0.5 * (image[..., 0] + image[..., 1]) - image[..., 2]).ravel()
        expected.append(
            np.hypot(first.std(), second.std()) + 0.3 * np.hypot(first.mean(), second.mean())
        )
    found = translation.colourfulness(images.astype("uint8"))
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-4)
    grey = np.repeat(images[..., :1], 3, axis=-1).astype("uint8")
    assert translation.colourfulness(grey) == 0
    assert translation.colourfulness(grey[..., :1]) is None
    clear = np.concatenate([images, np.zeros((5, 8, 8, 1))], axis=-1).astype("uint8")
    assert translation.colourfulness(clear) == 0  # nobody sees its colours


def test_figures_of_pairs(tensorflow_only):
    one, other = images_of(6, 12, 14, 3), images_of(6, 12, 14, 3)
    found = translation.of_pairs(one, other)
    assert found["psnr"] == pytest.approx(float(np.mean(pairs.psnr(one, other))))
    assert found["ssim"] == pytest.approx(float(np.mean(pairs.ssim(one, other))))
    assert "ms_ssim" not in found and found["perceptual"] > 0
    equal = translation.of_pairs(one, one)
    assert equal["psnr"] == 60 and equal["ssim"] == 1 and equal["perceptual"] < 1e-6
    assert "ssim" not in translation.of_pairs(one[:, :10], other[:, :10])
    large = images_of(2, 161, 161, 1)
    assert translation.of_pairs(large, large)["ms_ssim"] == 1


def test_rows_that_make_figures_readable(restorer):
    images = images_of(12, 16, 16, 3)
    figures, arrays = translation.measure(restorer, Split(images), seed=5)
    rows = {row["name"]: row for row in figures["rows"]}
    assert list(rows) == ["model", "input", "truth"]
    given = restorer.inputs_of(images, seed=5)
    np.testing.assert_array_equal(arrays["inputs"], given)
    np.testing.assert_array_equal(arrays["input"], given)
    assert rows["input"]["psnr"] == pytest.approx(float(np.mean(pairs.psnr(given, images))))
    assert "psnr" not in rows["truth"] and "fd" not in rows["model"]
    assert figures["sampling"]["images_per_second"] > 0
    again, _ = translation.measure(restorer, Split(images), seed=5)
    assert again["rows"] == figures["rows"]


def test_enlarged_by_bicubic_interpolation(restorer):
    model = kgen.models.SRGAN((16, 16, 1), filters=8, middle_blocks=1)
    images = images_of(4, 16, 16, 1)
    figures, arrays = translation.measure(model, Split(images))
    assert arrays["inputs"].shape == (4, 8, 8, 1) and arrays["input"].shape == images.shape
    assert "bicubic" in translation.names_of(model)["input"]
    assert "bicubic" not in translation.names_of(restorer)["input"]
    assert all("colourfulness" not in row for row in figures["rows"])


def test_what_is_hidden_has_the_mean_of_what_is_known():
    model = kgen.models.Restorer((16, 16, 3), degradation="box:0.25", filters=8, middle_blocks=1)
    images = images_of(4, 16, 16, 3)
    figures, arrays = translation.measure(model, Split(images))
    assert [row["name"] for row in figures["rows"]] == ["model", "input", "mean", "truth"]
    for given, image, filled in zip(arrays["inputs"], images, arrays["mean"], strict=True):
        known = given[..., -1] == 255
        np.testing.assert_array_equal(filled[known], image[known])
        np.testing.assert_array_equal(
            filled[~known], np.tile(image[known].mean(axis=0).round(), ((~known).sum(), 1))
        )


def test_a_baseline_of_other_inputs_is_refused(restorer):
    other = kgen.models.Restorer((16, 16, 3), degradation="grey", filters=8)
    with pytest.raises(ValueError, match=r"baseline must take \(16, 16, 3\)"):
        translation.measure(restorer, Split(images_of(2, 16, 16, 3)), baseline=other)
    with pytest.raises(ValueError, match="baseline is for translators"):
        vae = kgen.models.VAE.from_preset("vae_tiny")
        kgen.evaluation.evaluate(vae, images_of(20, 8, 8, 1), metrics=(), baseline=restorer)


def test_a_page_of_it(restorer, tmp_path, tensorflow_only):
    images = images_of(12, 16, 16, 3)
    report = kgen.evaluation.evaluate(
        restorer,
        images,
        metrics=["kd"],
        baseline=restorer,
        folder=tmp_path / "one",
        cache_dir=tmp_path,
    )
    assert report["images"] == 12 and report["samples"]["n"] == 12
    page = (tmp_path / "one" / "report.html").read_text("utf-8")
    for text in ("Against the truth", "baseline, Restorer", "the truth", "PSNR in dB"):
        assert text in page
    assert (tmp_path / "one" / "report" / "translations.png").is_file()
    kgen.evaluation.evaluate(
        restorer, images, metrics=["kd"], folder=tmp_path / "two", cache_dir=tmp_path
    )
    found = kgen.evaluation.compare([tmp_path / "one", tmp_path / "two"], tmp_path / "both.html")
    titles = [row[0] for row in found["rows"]]
    assert "PSNR in dB" in titles and "SSIM" in titles


def test_samples_are_measured_while_it_trains(restorer):
    images = images_of(24, 16, 16, 3)
    evaluation = kgen.evaluation.EvaluateSamples(Split(images), metrics=["kd"])
    model = kgen.models.Restorer((16, 16, 3), degradation="noise:25", filters=8, middle_blocks=1)
    model.compile()
    history = model.fit(images, batch_size=8, verbose=0, callbacks=[evaluation]).history
    assert np.isfinite(history["KD-general_cnn"]).all()


def test_a_style_has_no_truth():
    model = kgen.models.StyleTransfer.from_preset("style_transfer_tiny")
    split = Split(images_of(6, 8, 8, 1), inputs=images_of(5, 8, 8, 1), paired=False)
    figures, arrays = translation.measure(model, split)
    assert [row["name"] for row in figures["rows"]] == ["model", "input", "style"]
    assert arrays["model"].shape == (5, 8, 8, 1)
    assert set(translation.shown(arrays)) == {"translations"}
