"""What the commands that draw say in their pictures, and `kgen inspect` of it, with the model."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from PIL import Image

import kgen as package
from kgen import origin
from kgen.images import encode_png


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Files of models that are not trained, by name."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("gated_pixelcnn", "restorer"):
        keras.utils.set_random_seed(0)
        model_class = package.models.get(name)
        model = model_class.from_preset(model_class.tiny_preset)
        model.save(folder / f"{name}.keras")
    return folder


def test_sample(kgen, result, models, certificates, tmp_path):
    """Signed, too: what is changed then, in the mark as in the pixels, is told."""
    model, path = models / "gated_pixelcnn.keras", tmp_path / "grid.png"
    sign = "--c2pa-cert", certificates / "mail.pem", "--c2pa-key", certificates / "signer_key.pem"
    status, _, err = kgen(
        *("sample", model, "--seeds", "5,6,7", "-o", path, "--set", "temperature=0.9", *sign)
    )
    assert status == 0, err
    status, out, _ = kgen("inspect", path)
    assert status == 0 and "trainedAlgorithmicMedia" in out and "5 6 7" in out
    assert "by one who says to be signer (Tests); that was not checked" in out
    found = result("inspect", path, "--artifact", model, "--trust", certificates / "root.pem")
    assert (found["verdict"], found["figures"]["images"]) == ("proven", 3)
    assert found["claim"]["options"] == {"temperature": 0.9}
    assert found["credentials"]["state"] == "trusted"
    assert found["claim"]["model"] == "gated_pixelcnn"
    claim = origin.read(path)["claim"]
    with Image.open(path) as image:
        red = image.convert("RGB")
    red.putpixel((0, 0), (255, 0, 0))
    (tmp_path / "red.png").write_bytes(claim.mark(encode_png(np.asarray(red))))
    status, out, _ = kgen("inspect", tmp_path / "red.png", "--artifact", model)
    assert status == 1 and "Unproven: It has colours, and this model draws in grey." in out
    claim = dataclasses.replace(claim, seeds=(4, 6, 7))
    path.write_bytes(claim.mark(path.read_bytes()))
    status, out, _ = kgen("inspect", path)
    assert status == 1 and "Content Credentials, by signer (Tests), do not hold" in out


def test_complete(result, models, tmp_path):
    """What went in is in the picture, and the mask is in its mark."""
    model, path = models / "gated_pixelcnn.keras", tmp_path / "completions.png"
    result("complete", model, "--data", "digits", "-n", 2, "--samples", 3, "-o", path)
    found = result("inspect", path, "--artifact", model)
    assert (found["verdict"], found["figures"]["images"], found["figures"]["others"]) == (
        "proven", 6, 4
    )  # fmt: skip


def test_translate(kgen, result, models, tmp_path):
    model = models / "restorer.keras"
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), "uint8")
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels[::-1]).save(tmp_path / "b.png")
    result("translate", model, tmp_path / "a.png", "-o", tmp_path / "made")
    command = ["inspect", tmp_path / "made" / "a.png", "--artifact", model]
    found = result(*command, "--input", tmp_path / "a.png")
    assert found["verdict"] == "proven" and "decide nothing here" in found["said"]
    assert found["source_type"].endswith("/compositeWithTrainedAlgorithmicMedia")
    status, out, _ = kgen(*command, "--input", tmp_path / "b.png", "--json")
    assert status == 1 and json.loads(out)["verdict"] == "another input"


def test_what_is_wrong(refused, models, tmp_path):
    model, text = models / "restorer.keras", tmp_path / "text.png"
    text.write_text("no picture")
    assert "nowhere.png is no file" in refused("inspect", tmp_path / "nowhere.png")
    assert refused("inspect", text).endswith("text.png is no PNG, JPEG or WebP.")
    assert "is for --artifact" in refused("inspect", text, "--input", text)
    said = refused("sample", model, "-o", tmp_path / "a.png", "--c2pa-key", "key.pem")
    assert said.startswith("To sign takes both --c2pa-cert CHAIN and --c2pa-key KEY. Received: --c")
