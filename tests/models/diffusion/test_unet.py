"""The U-Net, and the models that are built on it."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy import signal

from kgen import random
from kgen.models import DDPM, EDM, VAE, FlowMatching
from kgen.models.diffusion.unet import UNet, UNetBlock
from kgen.training.step import Batch

IMAGES = np.random.default_rng(0).integers(0, 256, (48, 8, 8, 1), "uint8")
LABELS = np.arange(48, dtype="int32") % 3
RNG = np.random.default_rng(0)


def numpy(x):
    return ops.convert_to_numpy(x)


def noisy(layer, scale=0.2):
    """Weights that make every input count."""
    for weight in layer.weights:
        weight.assign(RNG.normal(size=weight.shape) * scale)
    return layer


def small(model_class=FlowMatching, num_classes=3, scale=0.2, **overrides):
    model = model_class((8, 8, 1), num_classes, **{"filters": 8, **overrides})
    for network in (model.network, model.ema_network):
        noisy(network, scale)
    return model


def silu(x):
    return x / (1 + np.exp(-x))


def grouped(x, groups=8):
    b, h, w, c = x.shape
    parts = x.reshape(b, h, w, groups, c // groups)
    mean, var = (f(parts, axis=(1, 2, 4), keepdims=True) for f in (np.mean, np.var))
    return ((parts - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)


def convolved(x, kernel, bias):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = np.zeros((*x.shape[:3], kernel.shape[-1]))
    for b, f in np.ndindex(len(x), kernel.shape[-1]):
        for c in range(x.shape[-1]):
            out[b, ..., f] += signal.correlate2d(padded[b, ..., c], kernel[..., c, f], "valid")
    return out + bias


def test_a_block_against_numpy():
    """Normalised, convolved, modulated by the condition, attended: each written out."""
    x = RNG.normal(size=(2, 4, 6, 8)).astype("float32")
    condition = RNG.normal(size=(2, 5)).astype("float32")
    block = UNetBlock(16, num_heads=2)
    block(x, condition)
    noisy(block)
    w = {weight.path.split("/", 1)[1]: numpy(weight).astype("float64") for weight in block.weights}

    def normed(x, name):
        return grouped(x) * w[f"{name}/gamma"] + w[f"{name}/beta"]

    def conv(x, name):
        return convolved(x, w[f"{name}/kernel"], w[f"{name}/bias"])

    y = convolved(silu(normed(x, "first_norm")), w["first/kernel"], 0.0)
    modulation = condition @ w["modulation/kernel"] + w["modulation/bias"]
    shift, scale = np.split(modulation[:, None, None], 2, axis=-1)
    y = conv(silu(grouped(y) * (1 + scale) + shift), "second")
    y = y + x @ w["shortcut/kernel"]
    tokens = normed(y, "attention_norm").reshape(2, 24, 16)
    qkv = tokens @ w["attention/qkv/kernel"] + w["attention/qkv/bias"]
    query, key, value = (part.reshape(2, 24, 2, 8) for part in np.split(qkv, 3, axis=-1))
    scores = np.exp(np.einsum("bqnh,bknh->bnqk", query, key) / np.sqrt(8))
    scores = scores / scores.sum(-1, keepdims=True)
    seen = np.einsum("bnqk,bknh->bqnh", scores, value).reshape(2, 24, 16)
    seen = seen @ w["attention/out/kernel"] + w["attention/out/bias"]
    expected = y + seen.reshape(y.shape)
    np.testing.assert_allclose(numpy(block(x, condition)), expected, rtol=2e-3, atol=2e-3)


def test_a_fresh_network_says_nothing():
    model = FlowMatching((8, 8, 1), 3, filters=8)
    x, times = np.ones((1, 8, 8, 1), "float32"), np.ones(1, "float32")
    np.testing.assert_array_equal(numpy(model.network(x, times, np.ones(1, "int32"))), 0.0)


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((12, 8, 3), {"multipliers": (1, 2), "attention": (1,)}),
        ((8, 8, 4), {"multipliers": (1,), "blocks": 2, "patch_size": 1}),
        pytest.param(
            *((16, 24, 1), {"multipliers": (1, 2, 2), "attention": (0, 2)}), marks=pytest.mark.slow
        ),
        ((8, 8, 3), {"multipliers": (1, 2), "attention": (1,), "all_joined": True}),
    ],
)
def test_everything_counts(shape, sizes):
    """Every weight, the point, the time and the class change what the network says."""
    model = FlowMatching(shape, 3, filters=16, **sizes)
    network = noisy(model.network, 0.1)
    x = RNG.normal(size=(2, *shape)).astype("float32")
    times, labels = np.array([0.2, 0.7], "float32"), np.array([0, 3], "int32")
    said = numpy(network(x, times, labels))
    assert said.shape == x.shape and said.dtype == "float32"
    # A row is its own.
    np.testing.assert_allclose(numpy(network(x[1:], times[1:], labels[1:])), said[1:], atol=1e-4)
    for other in ((x * 1.1, times, labels), (x, times * 0.5, labels), (x, times, labels[::-1])):
        assert (numpy(network(*other)) != said).all(axis=(1, 2, 3)).any()
    for weight in network.weights:
        if "label" in weight.path:
            continue  # rows of which two are looked at
        value = numpy(weight)
        weight.assign(value + RNG.normal(size=value.shape) * 0.3)
        changed = np.abs(numpy(network(x, times, labels)) - said).max()
        weight.assign(value)
        assert changed > 1e-5, weight.path


def test_dropout_follows_the_seeds():
    model = small(dropout=0.5)
    x, times = RNG.normal(size=(4, 8, 8, 1)).astype("float32"), np.full(4, 0.5, "float32")
    labels = np.zeros(4, "int32")

    def say(seeds):
        seeds = None if seeds is None else ops.convert_to_tensor(np.int32(seeds))
        return numpy(model.network(x, times, labels, seeds))

    first = say([1, 2, 3, 4])
    np.testing.assert_array_equal(first, say([1, 2, 3, 4]))
    other = say([1, 2, 3, 5])
    np.testing.assert_array_equal(first[:3], other[:3])
    assert (first[3] != other[3]).any() and (first != say(None)).any()
    batch = Batch(ops.convert_to_tensor(IMAGES), ops.convert_to_tensor(LABELS), ops.arange(48))
    losses = [float(model.objective(batch, training=t)[0]) for t in (True, True, False)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("model_class", [FlowMatching, DDPM, EDM])
def test_what_is_flat_is_drawn_flat(model_class):
    images = np.linspace(30, 220, 384).astype("uint8")[:, None, None, None]
    images = np.broadcast_to(images, (384, 8, 8, 1))
    keras.utils.set_random_seed(0)
    model = model_class((8, 8, 1), filters=16, multipliers=(1,), ema_decay=0.9)
    model.compile(learning_rate=5e-3)
    history = model.fit(images, batch_size=16, epochs=10, verbose=0).history["loss"]
    assert history[-1] < 0.85 * history[0]
    drawn = numpy(model.sample(random.row_seeds(1, 16), num_steps=20)).astype("int32")
    assert drawn.std(axis=(1, 2, 3)).mean() < 40
    assert drawn.mean(axis=(1, 2, 3)).std() > 20
    if model_class is DDPM:
        return  # after so few steps it knows too little of points that are nearly all noise
    # Noise of an image, and back.
    latents = model.run_endpoint("encode", {"image": images[::96]}, num_steps=50)
    again = model.run_endpoint("decode", {"latent": latents}, num_steps=50).astype(int)
    assert np.abs(again - images[::96]).mean() < 12


def test_latents_of_a_vae():
    vae = VAE.from_preset("vae_tiny", latent_dim=None, latent_channels=2)
    vae.training_steps.assign(1)
    model = FlowMatching((8, 8, 1), 3, vae, filters=8, multipliers=(1,), patch_size=1)
    assert model.latent_shape == vae.latent_shape
    model.adapt(IMAGES)
    drawn = model.generate(2, labels=1, num_steps=2)
    assert drawn.shape == (2, 8, 8, 1) and drawn.dtype == "uint8"


def test_guidance_in_an_interval():
    model = small()
    seeds = np.arange(4, dtype="int32")

    def draw(**options):
        options = {"num_steps": 4, "guidance_scale": 3.0, **options}
        return model.generate(seeds=seeds, labels=[0, 1, 2, 0], **options)

    plain = draw(guidance_scale=1.0)
    everywhere = draw()
    np.testing.assert_array_equal(everywhere, draw(guidance_low=0.0, guidance_high=1.0))
    # The steps begin at 1, 0.75, 0.5 and 0.25.
    np.testing.assert_array_equal(plain, draw(guidance_low=0.8, guidance_high=0.9))
    np.testing.assert_array_equal(everywhere, draw(guidance_low=0.2))
    assert (draw(guidance_low=0.3) != everywhere).any() and (draw(guidance_low=0.3) != plain).any()
    rows = draw(guidance_low=[0.8, 0.2, 0.2, 0.8], guidance_high=[0.9, 1, 1, 0.9])
    for row, expected in enumerate((plain, everywhere, everywhere, plain)):
        assert np.abs(rows[row].astype(int) - expected[row]).max() <= 1


def test_noise_on_the_way():
    ddpm, edm = small(DDPM, scale=0.03), small(EDM, scale=0.03)
    draw = {"seeds": [1, 2], "labels": 1, "num_steps": 3}
    assert (ddpm.generate(**draw, eta=1.0) != ddpm.generate(**draw)).any()
    np.testing.assert_array_equal(
        ddpm.generate(**draw, eta=1.0), ddpm.generate(**draw, sampler="ancestral")
    )
    # As elsewhere than in `generate`.
    varied = [ddpm.vary(IMAGES[:2], 0.9, labels=1, num_steps=3, eta=eta) for eta in (0.0, 1.0)]
    assert (varied[0] != varied[1]).any()
    draw["num_steps"] = 10
    assert (edm.generate(**draw, churn=5.0) != edm.generate(**draw)).any()


def test_bad_input():
    model, ddpm, edm = small(), small(DDPM), small(EDM)
    for call, message in [
        (lambda: FlowMatching((9, 8, 1)), "must divide the sides of the image, 9x8"),
        (lambda: FlowMatching((8, 8, 1), filters=12), "filters must be a multiple of 8"),
        (lambda: FlowMatching((8, 8, 1), attention=(2,)), "attention names feature maps 0 to 1"),
        (lambda: FlowMatching((8, 8, 1), attention=(0,), num_heads=3), "whose filters num_heads"),
        (lambda: FlowMatching((8, 8, 1), multipliers=()), "for each of the multipliers"),
        (lambda: FlowMatching((8, 8, 1), dropout=1.5), "dropout must be"),
        (lambda: model.generate(2, labels=1, eta=0.5), "Unknown option 'eta'"),
        (lambda: model.generate(2, labels=1, guidance_low=2), "guidance_low must be 0 to 1"),
        (lambda: ddpm.generate(2, labels=1, num_steps=2000), "at most the 1,000 of the path"),
        (lambda: ddpm.generate(2, labels=1, sampler="heun", eta=0.5), "eta is the noise"),
        (lambda: edm.generate(2, labels=1, sampler="euler", churn=5), "churn is the noise"),
        (
            lambda: small(num_classes=None).generate(2, guidance_scale=2.0),
            "guidance_scale compares",
        ),
        (
            lambda: model.run_endpoint(
                "encode", {"image": IMAGES[:2]}, labels=1, sampler="dpm_solver"
            ),
            "From data to noise the sampler must be",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.slow
def test_the_network_of_the_paper():
    """Ho et al. (2020), appendix B: 35.7 million parameters; here with scales of features too."""
    model = UNet((32, 32, 3), None, 128, (1, 2, 2, 2), 2, (1,), 1, 1, 0.1, True)
    modulated = sum(np.prod(w.shape) // 2 for w in model.weights if "modulation" in w.path)
    of_time = (256 - 128) * 512
    assert model.count_params() - modulated - of_time == pytest.approx(35.7e6, rel=0.015)
