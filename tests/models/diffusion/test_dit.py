import keras
import numpy as np
import pytest
from keras import ops

from kgen import random
from kgen.layers.vit import patchify, unpatchify
from kgen.models import VAE, DiT, FlowMatching
from kgen.models.diffusion.solvers import solve
from kgen.training.step import Batch

IMAGES = np.random.default_rng(0).integers(0, 256, (48, 8, 8, 1), "uint8")
LABELS = np.arange(48, dtype="int32") % 3
SMALL = {"patch_size": 4, "dim": 16, "num_layers": 2, "num_heads": 2}


def numpy(x):
    return ops.convert_to_numpy(x)


def noisy(model):
    """Weights that make every input count."""
    rng = np.random.default_rng(0)
    for network in (model.network, model.ema_network):
        for weight in network.weights:
            weight.assign(rng.normal(size=weight.shape) * 0.2)
    return model


def small(num_classes=3, **overrides):
    keras.utils.set_random_seed(0)
    return noisy(DiT((8, 8, 1), num_classes, **{**SMALL, **overrides}))


@pytest.fixture(scope="module")
def model():
    return small()


@pytest.fixture(scope="module")
def vae():
    keras.utils.set_random_seed(0)
    model = VAE.from_preset("vae_tiny", latent_dim=None, latent_channels=2)
    model.training_steps.assign(1)
    return model


def run(model, name, seeds, labels, num_steps=3, **inputs):
    """An endpoint, eagerly: a compiled one would take longer to trace than to run."""
    inputs |= {"seed": np.int32(seeds), "label": np.broadcast_to(np.int32(labels), len(seeds))}
    inputs = {name: ops.convert_to_tensor(value) for name, value in inputs.items()}
    return numpy(model.endpoints()[name].function(**inputs, num_steps=num_steps)["image"])


def test_the_network_against_numpy():
    """One block, written out: patches, conditions, adaLN-Zero, attention over all places."""
    model = small(num_layers=1, num_heads=1, rotary=False)
    weights = {w.path.split("network/", 1)[1]: numpy(w) for w in model.network.weights}
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 8, 8, 1)).astype("float32")
    times, labels = np.array([0.3, 0.9], "float32"), np.array([2, 3], "int32")

    def dense(x, name):
        return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]

    def silu(x):
        return x / (1 + np.exp(-x))

    def normal(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)

    angles = 1000 * times[:, None] * 10_000 ** -(np.arange(128) / 128)
    c = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    c = dense(silu(dense(c, "time_in")), "time_out")
    c = c + weights["label/embeddings"][labels]
    patches = [x[:, i : i + 4, j : j + 4].reshape(2, 16) for i in (0, 4) for j in (0, 4)]
    h = dense(np.stack(patches, axis=1), "patches")
    h = h + weights["rows/embeddings"][[0, 0, 1, 1]] + weights["columns/embeddings"][[0, 1, 0, 1]]
    parts = np.split(dense(silu(c), "block_0/modulation")[:, None], 6, axis=-1)
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = parts
    y = dense(normal(h) * (1 + scale) + shift, "block_0/attention/qkv")
    query, key, value = np.split(y, 3, axis=-1)
    scores = np.exp(query @ key.transpose(0, 2, 1) / 4)
    y = scores / scores.sum(-1, keepdims=True) @ value
    h = h + gate * dense(y, "block_0/attention/out")
    y = dense(normal(h) * (1 + mlp_scale) + mlp_shift, "block_0/mlp/first")
    y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    h = h + mlp_gate * dense(y, "block_0/mlp/second")
    shift, scale = np.split(dense(silu(c), "modulation")[:, None], 2, axis=-1)
    out = dense(normal(h) * (1 + scale) + shift, "velocity").reshape(2, 2, 2, 4, 4)
    out = out.transpose(0, 1, 3, 2, 4).reshape(2, 8, 8, 1)
    np.testing.assert_allclose(numpy(model.network(x, times, labels)), out, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("rotary", [False, True])
def test_class_tokens_join_halfway(rotary, tmp_path):
    """Their places are nowhere, so that they are not turned; what is drawn is the image alone."""
    model = small(class_tokens=3, num_layers=3, rotary=rotary)
    network = model.network
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 8, 8, 1)).astype("float32")
    times, labels = np.array([0.3, 0.9], "float32"), np.array([2, 3], "int32")
    condition = network.condition(times, labels)
    h = network.patches(numpy(patchify(ops.convert_to_tensor(x), 4)))
    h = h + network.rows(np.array([0, 0, 1, 1])) + network.columns(np.array([0, 1, 0, 1]))
    first, second, third = network.blocks
    h = numpy(first(h, condition))
    tokens = numpy(network.label(labels))[:, None] + numpy(network.joined(np.arange(3)))
    h = np.concatenate([tokens, h], axis=1)
    assert h.shape == (2, 7, 16) and (second.num_tokens, first.num_tokens) == (7, 4)
    if rotary:
        angles = second.attention.angles
        np.testing.assert_array_equal(angles[:3], 0)
        np.testing.assert_array_equal(angles[3:], first.attention.angles)
    h = numpy(third(second(h, condition), condition))[:, 3:]
    shift, scale = np.split(numpy(network.modulation(ops.silu(condition)))[:, None], 2, axis=-1)
    out = network.velocity(numpy(network.norm(h)) * (1 + scale) + shift)
    out = numpy(unpatchify(out, 4, 8, 8))
    np.testing.assert_allclose(numpy(network(x, times, labels)), out, atol=1e-4, rtol=1e-4)
    model.save(tmp_path / "dit.keras")
    again = keras.saving.load_model(tmp_path / "dit.keras")
    np.testing.assert_array_equal(
        numpy(again.network(x, times, labels)), numpy(network(x, times, labels))
    )


@pytest.mark.parametrize(
    "model_class, arguments",
    [(DiT, {**SMALL, "class_tokens": 2}), (FlowMatching, {"filters": 8})],
)
def test_gradient_checkpointing_changes_no_gradient(model_class, arguments):
    weights = []
    for checkpointing in (False, True):
        keras.utils.set_random_seed(0)
        arguments = {**arguments, "dropout": 0.3, "gradient_checkpointing": checkpointing}
        model = noisy(model_class((8, 8, 1), 3, **arguments))
        model.compile(optimizer=keras.optimizers.SGD(1e-2))
        model.fit(IMAGES, LABELS, batch_size=16, verbose=0)
        weights.append([numpy(w) for w in model.network.weights])
    for kept, anew in zip(*weights, strict=True):
        np.testing.assert_allclose(anew, kept, atol=1e-4, rtol=1e-3)
    assert any(np.abs(w).max() > 0 for w in weights[0])


def test_a_fresh_network_has_no_velocity():
    """adaLN-Zero and a last layer of zeros (section 3.2): training begins at the mean."""
    model = DiT((8, 8, 1), 3, **SMALL)
    velocity = model.network(np.ones((1, 8, 8, 1), "float32"), np.ones(1, "float32"), np.ones(1))
    np.testing.assert_array_equal(numpy(velocity), 0.0)


def test_the_loss_is_that_of_the_velocity():
    model = small(None)
    batch = Batch(ops.convert_to_tensor(IMAGES[:16]), None, ops.arange(16, dtype="int32"))
    loss, logs = model.objective(batch, training=False)
    x = IMAGES[:16].astype("float32") / 127.5 - 1
    noise = numpy(random.normal(batch.seeds, (8, 8, 1)))
    times = 1 / (1 + np.exp(-numpy(random.normal(batch.seeds, (), stream=3))))
    along = times[:, None, None, None]
    velocity = numpy(model.ema_network((1 - along) * x + along * noise, times.astype("float32")))
    assert float(loss) == pytest.approx(np.square(velocity - (noise - x)).mean(), rel=1e-4)
    assert logs["loss"] is loss


def test_training_hides_classes():
    model = small(label_dropout=0.3)
    model.ema_network.set_weights(model.network.get_weights())
    seeds, labels = np.arange(48, dtype="int32"), LABELS
    hidden = np.where(numpy(random.uniform(seeds, (), 2)) < 0.3, 3, labels)
    assert 6 < (hidden == 3).sum() < 24
    images, seeds, labels = (ops.convert_to_tensor(x) for x in (IMAGES, seeds, labels))
    told = Batch(images, ops.convert_to_tensor(hidden.astype("int32")), seeds)
    expected = float(model.objective(told, training=False)[0])
    batch = Batch(images, labels, seeds)
    assert float(model.objective(batch, training=True)[0]) == pytest.approx(expected, rel=1e-5)
    assert float(model.objective(batch, training=False)[0]) != pytest.approx(expected, rel=1e-5)


def test_training_learns_and_averages():
    images = np.repeat(np.arange(4, dtype="uint8") * 80, 12)[:, None, None, None]
    images = np.broadcast_to(images, (48, 8, 8, 1))
    model = DiT((8, 8, 1), ema_decay=0.9, **{**SMALL, "patch_size": 2})
    model.compile(learning_rate=1e-2)
    images = np.tile(images, (8, 1, 1, 1))
    history = model.fit(images, batch_size=16, epochs=5, verbose=0).history["loss"]
    assert history[-1] < 0.6 * history[0]
    pairs = zip(model.network.weights, model.ema_network.weights, strict=True)
    assert any((numpy(a) != numpy(b)).any() for a, b in pairs)
    drawn = numpy(model.sample(random.row_seeds(1, 16), num_steps=8)).astype("int32")
    # What it was taught is flat; what it draws is nearly so.
    assert drawn.std(axis=(1, 2, 3)).mean() < 30


def test_steps_are_chosen_at_call_time(model):
    """Other steps leave nothing behind: each call gives what the sampler gives by itself."""
    seeds, labels = np.arange(5, dtype="int32"), np.ones(5, "int32")
    calls = [{"num_steps": 2}, {"num_steps": 3}, {"num_steps": 2}]
    results = [model.generate(seeds=seeds, labels=1, **call) for call in calls]
    np.testing.assert_array_equal(results[0], results[2])
    eager = [
        numpy(model.sample(seeds, labels, **options))
        for options in (calls[1], {"num_steps": 2, "sampler": "heun"})
    ]
    np.testing.assert_array_equal(results[1], eager[0])
    assert (results[0] != results[1]).any() and (results[0] != eager[1]).any()


def test_guidance(model):
    seeds = np.arange(6, dtype="int32")

    def draw(label, **options):
        return numpy(model.sample(seeds, np.full(6, label, "int32"), num_steps=3, **options))

    free = draw(0, guidance_scale=0.0)
    np.testing.assert_array_equal(free, draw(2, guidance_scale=0.0))

    def denoise(x, times):
        said = model.ema_network(x, times, np.full(6, 3, "int32"))
        return model.method.estimates(said, x, times)

    noise = random.normal(ops.convert_to_tensor(seeds), (8, 8, 1))
    none = solve(denoise, model.method.way, noise, 3)
    assert np.abs(numpy(model.to_images(none)).astype(int) - free).max() <= 1
    assert (draw(1, guidance_scale=3.0) != draw(1)).any()


def test_inpainting_keeps_what_is_known_and_looks_at_nothing_else(model):
    mask = np.zeros((8, 8), "uint8")
    mask[:, 3:] = 1
    drawn = model.inpaint(IMAGES[:8], mask, labels=1, seed=3, num_steps=3)
    np.testing.assert_array_equal(drawn[:, :, 3:], IMAGES[:8, :, 3:])
    other = IMAGES[:8].copy()
    other[:, :, :3] = 255 - other[:, :, :3]
    again = model.inpaint(other, mask, labels=1, seed=3, num_steps=3)
    np.testing.assert_array_equal(drawn, again)
    # What is drawn depends on what is known, here later in raster order.
    other[:, :, 3:] = 255 - other[:, :, 3:]
    changed = model.inpaint(other, mask, labels=1, seed=3, num_steps=3)
    assert (changed[:, :, :3] != drawn[:, :, :3]).any()
    seeds = numpy(random.row_seeds(3, 8))
    nothing = run(model, "inpaint", seeds, 1, image=IMAGES[:8], mask=np.zeros((8, 8, 8), "uint8"))
    np.testing.assert_array_equal(nothing, run(model, "generate", seeds, 1))


def test_variations(model):
    seeds, images = np.arange(8), IMAGES[:8]
    strengths = np.zeros(8, "float32")
    np.testing.assert_array_equal(
        run(model, "vary", seeds, 1, image=images, strength=strengths), images
    )
    new = run(model, "vary", seeds, 1, image=images, strength=strengths + 1)
    np.testing.assert_array_equal(new, run(model, "generate", seeds, 1))
    strengths = np.array([0.0, 0.1, 0.4, 1.0])
    images = np.repeat(IMAGES[:1], 4, axis=0)
    varied = model.vary(images, strengths, labels=1, seeds=[5, 5, 5, 5]).astype(int)
    distances = np.abs(varied - images).mean(axis=(1, 2, 3))
    assert distances[0] == 0 and (np.diff(distances) > 0).all()
    strength = np.float32([0.4])
    alone = run(model, "vary", [5], 1, 32, image=images[2:3], strength=strength)
    assert np.abs(alone[0].astype(int) - varied[2]).max() <= 1


def test_latents_of_a_vae(vae, tmp_path):
    before = [numpy(w).copy() for w in vae.variables]
    model = DiT((8, 8, 1), 3, vae, **{**SMALL, "patch_size": 1})
    assert model.latent_shape == vae.latent_shape and model.needs_adapting()
    model.adapt(IMAGES)
    assert not model.needs_adapting()
    trained = {id(w) for w in model.trainable_variables}
    assert trained == {id(w) for w in model.network.trainable_variables}
    batch = Batch(
        *(ops.convert_to_tensor(x) for x in (IMAGES, LABELS, np.arange(48, dtype="int32")))
    )
    # A fresh network has no velocity: the loss is that of noise and data, of variance 1 each.
    assert float(model.objective(batch, training=True)[0]) == pytest.approx(2, rel=0.1)
    latents = numpy(model.from_images(IMAGES))
    np.testing.assert_allclose(latents.mean(axis=(0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(latents.std(axis=(0, 1, 2)), 1, atol=1e-3)
    for ours, theirs in zip(before, model.autoencoder.variables, strict=True):
        np.testing.assert_array_equal(ours, numpy(theirs))
    # There and back is what the VAE itself gives back, up to a rounding.
    given = numpy(vae.endpoints()["reconstruct"].function(image=IMAGES[:8])["image"])
    assert np.abs(model.predict_on_batch(IMAGES[:8]).astype(int) - given).max() <= 1
    mask = np.broadcast_to(np.arange(8) < 4, (8, 8, 8)).astype("uint8")
    drawn = run(model, "inpaint", np.arange(8), LABELS[:8], image=IMAGES[:8], mask=mask)
    np.testing.assert_array_equal(drawn[:, :, :4], IMAGES[:8, :, :4])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert not again.needs_adapting()
    drawn = (run(m, "generate", np.arange(4), 2) for m in (model, again))
    np.testing.assert_array_equal(*drawn)


def test_latents_of_a_vae_that_is_told_the_class():
    vae = VAE.from_preset("vae_tiny", num_classes=3, latent_dim=None, latent_channels=2)
    rng = np.random.default_rng(0)
    for weight in vae.encoder.weights:
        weight.assign(rng.normal(size=weight.shape) * 0.3)
    vae.training_steps.assign(1)
    model = DiT((8, 8, 1), 3, vae, **{**SMALL, "patch_size": 1})
    with pytest.raises(ValueError, match="class-conditional and needs labels"):
        model.adapt(IMAGES)
    labels = np.repeat(np.arange(3, dtype="int32"), 16)
    model.compile(run_eagerly=True)
    model.fit(IMAGES, labels, batch_size=48, verbose=0)
    # Encoded by their own classes, and not by any, latents are what the flow expects.
    latents = numpy(model.from_images(IMAGES, labels))
    np.testing.assert_allclose(latents.mean(axis=(0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(latents.std(axis=(0, 1, 2)), 1, atol=1e-3)
    assert np.abs(numpy(model.from_images(IMAGES, LABELS)) - latents).max() > 0.1


TIMES = """
import keras, numpy as np
from kgen.models import DiT

times = np.linspace(0, 1, 1001, dtype="float32")
for policy in ("mixed_bfloat16", "mixed_float16"):
    network, found = DiT.from_preset("dit_tiny", dtype=policy).network, []
    embed = network.embed_times
    network.embed_times = lambda times: found.append(embed(times)) or found[-1]
    velocity = network(np.zeros((1001, 8, 8, 1), "float32"), times)
    exact = keras.ops.convert_to_numpy(embed(times))
    assert len(np.unique(exact, axis=0)) == 1001
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(found[0]), exact)
    assert network.patches.compute_dtype == policy.removeprefix("mixed_")
"""


def test_all_times_differ_in_half_precision(on_jax):
    exec(TIMES, {})
    on_jax(TIMES)


@pytest.mark.slow
def test_training_on_latents(vae):
    """`fit` measures the latents first, and leaves the autoencoder as it was."""
    before = [numpy(w).copy() for w in vae.variables]
    model = DiT((8, 8, 1), 3, vae, **{**SMALL, "patch_size": 1})
    model.compile(learning_rate=1e-2)
    history = model.fit(IMAGES, LABELS, batch_size=16, epochs=10, verbose=0).history["loss"]
    assert history[-1] < history[0] and not model.needs_adapting()
    for ours, theirs in zip(before, model.autoencoder.variables, strict=True):
        np.testing.assert_array_equal(ours, numpy(theirs))
    mask = np.arange(8) < np.full((8, 8), 4)
    drawn = model.inpaint(IMAGES[:8], mask, LABELS[:8])
    np.testing.assert_array_equal(drawn[:, :, :4], IMAGES[:8, :, :4])


def test_an_untrained_autoencoder_is_named():
    model = DiT((8, 8, 1), autoencoder="vae_tiny", **{**SMALL, "patch_size": 1})
    assert model.diagnose({})[0].startswith("untrained autoencoder: the VAE")


def test_bad_input(model, vae):
    for call, message in [
        (lambda: model.generate(2, labels=1, num_steps=0), "num_steps must be a positive int"),
        (lambda: model.generate(2, labels=1, sampler="rk4"), "Unknown sampler 'rk4'"),
        (lambda: model.generate(2, labels=1, steps=4), "Unknown option 'steps'"),
        (lambda: model.inpaint(IMAGES[:2], np.ones((4, 4)), labels=1), "mask must have shape"),
        (lambda: model.inpaint(IMAGES[:2, :4], np.ones((4, 8)), labels=1), "takes images of shape"),
        (lambda: model.vary(IMAGES[:2], 1.5, labels=1), "strength must be 0 to 1"),
        (lambda: model.vary(IMAGES[:2], [0.1, 0.2, 0.3], labels=1), "strength must be 0 to 1"),
        (lambda: small(None).generate(2, guidance_scale=2.0), "guidance_scale compares"),
        (lambda: DiT((8, 8, 1), patch_size=3), "patch_size must divide the sides of the image"),
        (lambda: small(None, class_tokens=2), "class_tokens say the class: give num_classes"),
        (lambda: DiT((8, 8, 1), times="logit"), "Unknown times 'logit'. Did you mean"),
        (lambda: DiT((8, 8, 1), ema_decay=1), "ema_decay must be"),
        (lambda: DiT((8, 8, 1), dim=20, num_heads=3), "num_heads must divide dim"),
        (lambda: DiT((8, 8, 1), autoencoder="nowhere"), "autoencoder must be a VAE"),
        (lambda: DiT((16, 16, 1), autoencoder=vae), "image_shape must be the autoencoder's"),
        (lambda: DiT((8, 8, 1), autoencoder=vae, patch_size=3), "sides of the latent map"),
        (lambda: DiT((8, 8, 1), autoencoder="vqvae_tiny"), "autoencoder must be a VAE"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
