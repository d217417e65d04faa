import json

import numpy as np
import pytest

import kgen
from kgen.evaluation import page, report


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 255, (50, 8, 8, 1)).astype("uint8")


@pytest.fixture(scope="module")
def vae():
    return kgen.models.VAE.from_preset("vae_tiny")


def test_figures_of_a_vae(vae, images):
    figures = kgen.evaluation.evaluate(
        vae, images, importance_samples=3, num_samples=300, metrics=("kd", "recall")
    )
    assert figures["images"] == 50 and figures["samples"]["n"] == 300
    assert figures["losses"] == pytest.approx(vae.evaluate(images, verbose=0, return_dict=True))
    nats = vae.negative_log_likelihood(images, importance_samples=3).mean()
    likelihood = figures["likelihood"]
    assert likelihood["nats"] == pytest.approx(nats, rel=1e-6)
    assert likelihood["bits_per_dimension"] == pytest.approx(nats / np.log(2) / 64, rel=1e-6)
    assert likelihood["importance_samples"] == 3 and likelihood["kind"].endswith("bound")
    assert "3 importance samples" in likelihood["protocol"]
    assert figures["sampling"]["images_per_second"] > 0
    assert set(figures["metrics"]) == {"KD-general_cnn", "recall-general_cnn"}
    measured = kgen.evaluation.measure(vae.generate(300, seed=0), images, metrics=["kd"])
    assert figures["metrics"]["KD-general_cnn"] == measured["metrics"]["KD-general_cnn"]


def test_a_density_has_no_bits_per_dimension(images):
    model = kgen.models.VAE.from_preset("vae_tiny", likelihood="gaussian")
    found = report.likelihood(model, kgen.data.Split(images))
    assert np.isfinite(found["nats"]) and found["bits_per_dimension"] is None


def test_reconstruction_error_against_numpy(vae, images, monkeypatch):
    reconstruction = np.asarray(vae(images)).astype("float64")
    error = report.reconstruction_error(vae, images, batch_size=16)
    assert error["mae"] == pytest.approx(np.abs(reconstruction - images).mean())
    assert error["rmse"] == pytest.approx(np.sqrt(np.square(reconstruction - images).mean()))


@pytest.mark.slow
def test_conditional_model(images):
    model = kgen.models.VAE.from_preset("vae_tiny", num_classes=5)
    split = kgen.data.Split(images, np.arange(50) % 5)
    figures = kgen.evaluation.evaluate(model, split, num_samples=300, metrics=["cas"])
    assert set(figures["metrics"]) == {"CAS"} and "reconstruction" in figures
    with pytest.raises(ValueError, match="needs labels"):
        kgen.evaluation.evaluate(model, images)


def test_model_without_likelihood_or_reconstruction(images):
    model = kgen.models.DCGAN.from_preset("dcgan_tiny")
    figures = kgen.evaluation.evaluate(model, images, metrics=())
    assert set(figures) == {"model", "data", "images", "losses", "sampling", "versions"}
    with pytest.raises(ValueError, match="DCGAN has no likelihood"):
        kgen.evaluation.evaluate(model, images, importance_samples=3)
    exact = kgen.models.GatedPixelCNN.from_preset("gated_pixelcnn_tiny")
    with pytest.raises(ValueError, match="a likelihood that takes no importance samples"):
        kgen.evaluation.evaluate(exact, images, importance_samples=3)


def test_wrong_arguments(vae, images):
    with pytest.raises(ValueError, match=r"importance_samples must be a positive int"):
        kgen.evaluation.evaluate(vae, images, importance_samples=0)
    with pytest.raises(ValueError, match=r"\(8, 8, 1\). Received: \(8, 8, 3\)"):
        kgen.evaluation.evaluate(vae, images.repeat(3, axis=-1))
    with pytest.raises(ValueError, match=r"num_samples must be a positive int"):
        kgen.evaluation.evaluate(vae, images, num_samples=0)
    with pytest.raises(ValueError, match=r"needs at least 128 images\. Received: 100"):
        kgen.evaluation.evaluate(vae, images, num_samples=100, metrics=["fd"])
    for name, value in (("num_samples", 2.7), ("batch_size", None), ("importance_samples", 1.5)):
        with pytest.raises(ValueError, match=f"{name} must be a positive int"):
            kgen.evaluation.evaluate(vae, images, **{name: value})
    with pytest.raises(ValueError, match=r"A seed must be .* Received: None"):
        kgen.evaluation.evaluate(vae, images, seed=None)
    with pytest.raises(ValueError, match="Unknown split 'tests'"):
        kgen.evaluation.evaluate(vae, kgen.data.load("digits"), split="tests")


def test_images_that_were_trained_on_are_no_held_out_ones(vae, images):
    train = kgen.data.Split(images[10:])
    options = {"num_samples": 64, "metrics": ["kd"]}
    warned = kgen.evaluation.evaluate(vae, images[8:20], train, **options)["warnings"]
    assert warned[-1].startswith("not held out: 10 of the 12 images are training images too")
    warned = kgen.evaluation.evaluate(vae, images[:10], train, **options)["warnings"]
    assert not any(text.startswith("not held out") for text in warned)


def test_one_held_out_image(vae, images, tmp_path):
    """Gives what a model alone can tell, and says why it gives no score."""
    figures = kgen.evaluation.evaluate(
        vae, images[:1], kgen.data.Split(images[1:4]), num_samples=8, folder=tmp_path / "page"
    )
    assert figures["metrics"].keys() == {"authenticity-general_cnn"}
    assert {"reconstruction", "likelihood", "losses"} <= figures.keys()
    page = (tmp_path / "page/report.html").read_text(encoding="utf-8")
    for title in ("FD-general_cnn", "KD-general_cnn", "recall-general_cnn", "CAS"):
        assert f"<dt>{title}</dt>" in page and figures["left_out"][title] in page
    assert "neighbours" in figures["pictures"], "of three training images"
    alone = kgen.evaluation.evaluate(vae, images[:1], num_samples=8)
    assert alone["metrics"] == {} and len(alone["left_out"]) == len(kgen.evaluation.METRICS)


def test_a_folder_with_a_page(vae, tmp_path):
    data = kgen.data.load("digits", cache_dir=tmp_path / "cache")
    folder = tmp_path / "evaluation"
    figures = kgen.evaluation.evaluate(
        *(vae, data),
        metrics=["kd"],
        num_samples=64,
        options={"draw": True},
        folder=folder,
        cache_dir=tmp_path,
    )
    assert figures["samples"]["options"] == {"draw": True}
    assert "draw True" in (folder / "report.html").read_text()
    assert json.loads((folder / "evaluation.json").read_text()) == figures
    assert {"samples", "neighbours", "reconstructions", "interpolation"} <= set(figures["pictures"])
    assert "KD-general_cnn" in (folder / "report.html").read_text()
    with pytest.raises(ValueError, match=r"two runs or more\. Received: 1"):
        kgen.evaluation.compare([folder], tmp_path / "page.html")

    def names():
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}

    # The next one, as a whole or not at all, with no picture of the last one.
    assert names() == set(page.written(folder))
    assert figures["pictures"].keys() <= set(report.PICTURES)
    (folder / "report/mine.png").write_text("mine")
    (folder / "report/classes.png").write_text("mine")
    with pytest.raises(FileExistsError, match=r"has not written: report/classes\.png\. Move it"):
        kgen.evaluation.evaluate(vae, data, metrics=(), folder=folder)
    (folder / "report/classes.png").unlink()
    before = {name: (folder / name).read_bytes() for name in names()}

    class Killed(list):
        def __iter__(self):  # when the pictures are written and the page is not
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kgen.evaluation.evaluate(vae, data, metrics=(), folder=folder, history=Killed([1]))
    assert {name: (folder / name).read_bytes() for name in names()} == before
    kgen.evaluation.evaluate(vae, data, metrics=(), folder=folder)
    assert names() == {"evaluation.json", "report.html", "report/mine.png"}
