"""Presets of 28 pixels train with their defaults, here on emoji of their shape, and some larger.

Those of 8x8 pixels other tests train.
"""

import tarfile

import numpy as np
import pytest

import kgen

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*(trained|Training on|codes|collapse)"),
]

#: Steps of 8 images for those that take a tenth of a second or less, and for all others.
STEPS, FEWER = 100, 20
FAST = (
    *("dcgan_28x28", "r3gan_28x28", "vae_28x28", "vae_64x64"),
    *("ladder_vae_28x28", "vqvae_28x28"),
)

#: A step of them takes half a second on two cores; or their network is that of another preset.
LEFT_OUT = (
    *("image_gpt_28x28", "vit_gan_28x28", "pixelcnn_pp_28x28", "soflow_dit_28x28"),
    *("ddpm_28x28", "edm_28x28", "vqvae_vit_28x28"),
)

#: Larger ones: their networks are those of 28 pixels with a level more.
LARGER = ("dcgan_64x64", "vae_64x64", "style_transfer_32x32")

PRESETS = [
    (name, preset)
    for name, model in kgen.models.registered().items()
    for preset, arguments in model.presets.items()
    if preset in LARGER or (preset.endswith("_28x28") and preset not in LEFT_OUT)
]


@pytest.fixture(scope="module")
def emoji(data_dir, tmp_path_factory):
    """A folder of 200 emoji of 64x64 with alpha."""
    folder = tmp_path_factory.mktemp("emoji")
    with tarfile.open(data_dir / "emoji64.tar.xz") as archive:
        pictures = [m for m in archive if "twemoji" in m.name and m.name.endswith(".png")]
        for member in pictures[::15][:200]:
            member.name = member.name.rpartition("/")[2]
            archive.extract(member, folder, filter="data")
    return folder


@pytest.mark.parametrize("name, preset", PRESETS)
def test_a_preset_trains(emoji, name, preset):
    translator = name in kgen.models.families()["translation"].models
    pairs = translator and name not in ("srgan", "style_transfer")
    spoilt = {"degradation": "noise:25"} if pairs else {}
    model = kgen.models.registered()[name].from_preset(preset, seed=0, **spoilt)
    data = kgen.data.load(
        emoji, image_shape=model.image_shape, validation_fraction=0, test_fraction=0.1
    )
    steps = STEPS if preset in FAST else FEWER
    model.compile()
    images = data.train.images[: 8 * steps // 5]
    given = (images, images[::-1]) if name == "style_transfer" else (images,)
    history = model.fit(*given, batch_size=8, epochs=5, verbose=0).history
    assert all(np.isfinite(values).all() for values in history.values()), history
    if "sample_spread" in history:  # a game, in which losses need not fall
        assert history["sample_spread"][-1] > 0.02, history
    elif "fake_score" not in history:  # of a model that teaches itself, what data teach it
        loss = history.get("velocity_loss", history["loss"])
        assert loss[-1] < loss[0], history
    if "active_units" in history and name == "vae":
        assert history["active_units"][-1] >= 4, history
