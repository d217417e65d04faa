"""Which model trains on which images, and whether it fits."""

import inspect
import math

import keras
import numpy as np
import pytest

import kgen
from kgen.training import size
from kgen.training.choice import choose


def images(shape, kind):
    """Black and white but for the edges, as MNIST is; or grey levels."""
    x = np.random.default_rng(0).random((20, *shape))
    return (255 * (np.clip(20 * x - 9.5, 0, 1) if kind == "black and white" else x)).astype("uint8")


@pytest.mark.parametrize("name", kgen.models.registered())
def test_nothing_that_has_grey_levels_trains_black_and_white(name):
    for shape in ((28, 28, 1), (32, 32, 1), (28, 28, 3), (32, 32, 3), (32, 32, 4)):
        choice = choose(name, shape, {}, images(shape, "grey"))
        defaults = inspect.signature(choice.model_class).parameters
        values = {name: parameter.default for name, parameter in defaults.items()}
        values |= choice.arguments
        assert values.get("num_levels", 256) > 2
        # None is by the channels, see test_likelihoods_by_default_follow_the_channels.
        assert values.get("likelihood") != "bernoulli"
        assert values.get("likelihood", "") is not None or shape[-1] > 1


def test_black_and_white_stays_and_so_does_what_is_given():
    shape = (28, 28, 1)
    binary, grey = images(shape, "black and white"), images(shape, "grey")
    assert "likelihood" not in choose("vae", shape, {}, binary).arguments
    assert choose("pixelcnn", shape, {}, binary).arguments["num_levels"] == 2
    assert choose("vae", shape, {}, grey).arguments["likelihood"] == "discretized_logistic"
    assert choose("pixelcnn", shape, {}, grey).arguments["num_levels"] == 256
    given = {"likelihood": "bernoulli"}
    assert "likelihood" not in choose("vae", shape, given, grey).arguments
    assert "likelihood" not in choose("vae", shape, {"binarization": "none"}, grey).arguments
    assert "likelihood" not in choose("vae_28x28", shape, {}, grey).arguments, "it was named"


def test_few_images_are_augmented_for_discriminators():
    shape = (28, 28, 1)
    few = images(shape, "black and white")
    choice = choose("dcgan", shape, {}, few)
    assert choice.arguments["augmentation"] == ("colour", "translation", "cutout")
    assert choice.arguments["augmentation_probability"] == "adaptive"
    assert "overfits, for there are no more than 20 images" in choice.why
    model = choice.model_class(**choice.arguments)
    assert "augmentation_probability" in model.training_metric_names
    many = np.zeros((50_001, *shape), "uint8")
    for other in (
        choose("dcgan", shape, {}, many),
        choose("dcgan", shape, {"augmentation": ()}, few),
        choose("dcgan", shape, {"augmentation_probability": 0.5}, few),
        choose("dcgan", shape, {}),
        choose("dcgan_28x28", shape, {}, few),
        choose("vae", shape, {}, few),
    ):
        assert "augmentation" not in other.arguments and "augmented" not in other.why


def test_the_preset_of_a_shape():
    found = {
        shape: choose("vae", shape, {}).preset
        for shape in ((28, 28, 1), (32, 32, 3), (32, 32, 4), (32, 32, 1), (64, 64, 4), (48, 48, 3))
    }
    expected = ["vae_28x28", "vae_32x32", "vae_32x32", None, "vae_64x64", None]
    assert list(found.values()) == expected
    assert "no preset of 32x32x4, so the one of 32x32x3" in choose("vae", (32, 32, 4), {}).why


def test_likelihoods_by_default_follow_the_channels():
    small = {"num_blocks": 0, "units": 8, "latent_dim": 2}
    for channels, likelihood in ((1, "bernoulli"), (3, "discretized_logistic")):
        model = kgen.models.VAE((8, 8, channels), **small)
        assert model.likelihood == likelihood == model.get_config()["likelihood"]


def test_attention_that_is_larger_than_the_machine():
    model = kgen.models.ImageGPT.from_preset("image_gpt_tiny")
    tokens, heads, layers = 30, 2, 1
    assert size.attention_bytes(model, 7) == 4 * 7 * heads * layers * tokens**2
    size.check_size(model, 64)
    with pytest.raises(ValueError, match=r"of them for attention.* Take a batch_size of \d+"):
        size.check_size(model, 10**9)
    from kgen.layers.transformer import TransformerSpec

    with pytest.warns(UserWarning, match="16,384 tokens attend .* 4.3 GB for each image"):
        TransformerSpec(16, 1, 4, rotary=False).blocks(np.zeros((16384, 2), "float32"))


def test_what_cannot_be_built_here_is_named_before_it_is_built():
    """In moments: nothing of it is there."""
    with pytest.raises(ValueError, match=r"among 1,048,576 tokens takes .* GB for one image"):
        kgen.models.DiT((1024, 1024, 1), patch_size=1, dim=16, num_layers=1)
    with pytest.raises(ValueError, match=r"parameters takes .* GB .* fewer features"):
        kgen.models.DiT((8, 8, 1), dim=2**18, num_layers=96, num_heads=64)
    with pytest.raises(ValueError, match=r"among 262,144 tokens takes .* GB for one image"):
        kgen.models.FlowMatching((512, 512, 1), filters=8, patch_size=1, attention=(0,))
    with pytest.raises(ValueError, match=r"parameters takes .* GB .* fewer features"):
        kgen.models.FlowMatching((8, 8, 1), filters=2**18)


def test_features_that_are_larger_than_the_machine():
    vae = kgen.models.VAE.from_preset("vae_tiny")
    convolutions = [
        layer for layer in (*vae.encoder.layers, *vae.decoder.layers) if "conv2d" in layer.name
    ]
    numbers = sum(math.prod(layer.output.shape[1:]) for layer in convolutions)
    assert numbers > 0 and size.feature_bytes(vae, 5) == 4 * 5 * numbers
    with pytest.raises(ValueError, match=r"of them for features.* Take a batch_size of \d+"):
        size.check_size(vae, 10**9)
    model = kgen.models.FlowMatching.from_preset("flow_matching_tiny")
    with pytest.raises(ValueError, match=r"for features.* Set gradient_checkpointing=True\."):
        size.check_size(model, 10**9)
    less = kgen.models.FlowMatching.from_preset("flow_matching_tiny", gradient_checkpointing=True)
    assert 4 * size.feature_bytes(less, 3) == size.feature_bytes(model, 3) > 0
    half = kgen.models.FlowMatching.from_preset("flow_matching_tiny", dtype="mixed_bfloat16")
    assert 2 * size.feature_bytes(half, 3) == size.feature_bytes(model, 3)
    dit = kgen.models.DiT.from_preset("dit_tiny", num_layers=3, gradient_checkpointing=True)
    assert size.attention_bytes(dit, 3) == 4 * 3 * 2 * 4**2


@pytest.mark.parametrize("name", ["maskgit", "vq_pixelcnn", "vq_transformer"])
def test_two_stages_name_their_two_commands(name):
    model_class = kgen.models.get(name)
    with pytest.raises(ValueError, match=r"kgen train vqvae .*, then kgen train .*tokenizer=runs"):
        model_class((8, 8, 1))


def test_an_untrained_tokenizer_is_named_before_the_first_step():
    model = kgen.models.MaskGIT.from_preset("maskgit_tiny")
    model.compile()

    class First(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            raise InterruptedError

    images = np.zeros((8, 8, 8, 1), "uint8")
    with (
        pytest.warns(UserWarning, match="Before the first step: untrained tokenizer") as caught,
        pytest.raises(InterruptedError),
    ):
        model.fit(images, batch_size=8, verbose=0, callbacks=First())
    assert any("kgen train vqvae --data DATA" in str(w.message) for w in caught)
