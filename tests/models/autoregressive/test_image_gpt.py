"""ImageGPT: the promises of an autoregressive model, its options, and palettes."""

import json

import keras
import numpy as np
import pytest
from keras import ops

import kgen
from kgen import random
from kgen.models import ImageGPT
from kgen.models.autoregressive.sampling import keep_likeliest
from kgen.training.step import Batch, input_gradient

SEEDS = np.arange(7, dtype="int32") * 11


def numpy(x):
    return ops.convert_to_numpy(x)


def build(image_shape=(4, 3, 1), seed=0, **options):
    """A small model with random weights, so that nothing is uniform."""
    options = {"dim": 16, "num_layers": 2, "num_heads": 2, "num_levels": 4, **options}
    model = ImageGPT(image_shape, **options)
    rng = np.random.default_rng(seed)
    for variable in model.network.weights:
        variable.assign(rng.normal(0, 0.3, variable.shape))
    return model


def recompute(model, seeds, labels=None, temperature=1.0, images=None, mask=None, scale=1.0):
    """The slow sampler: the whole network for every token."""
    network, channels = model.network, model.grid[-1]
    shape = (network.length, random.categorical_size(network.num_tokens))
    noise = numpy(random.gumbel(ops.convert_to_tensor(seeds), shape))
    tokens = np.zeros((len(seeds), network.length), "int32")
    none = None if labels is None else np.full_like(labels, model.num_classes)
    for t in range(network.length):
        if mask is not None and mask.ravel()[t // channels]:
            tokens[:, t] = images.reshape(len(seeds), -1)[:, t] // 85
            continue
        logits = numpy(network(tokens, labels))[:, t]
        if scale != 1:
            free = numpy(network(tokens, none))[:, t]
            logits = free + scale * (logits - free)
        tokens[:, t] = np.argmax(logits / temperature + noise[:, t], axis=-1)
    return (tokens * 85).astype("uint8").reshape(-1, *model.image_shape)


@pytest.mark.parametrize(
    "shape, options",
    [
        ((4, 3, 1), {}),
        ((4, 3, 1), {"rotary": False, "qk_norm": True}),
        ((2, 3, 3), {"num_classes": 3, "mlp": "swiglu", "norm": "rms"}),
    ],
)
def test_the_cached_sampler_draws_what_recomputing_draws(shape, options):
    model = build(shape, **options)
    labels = SEEDS % 3 if model.num_classes else None
    drawn = numpy(model.sample(SEEDS, labels, temperature=0.7))
    np.testing.assert_array_equal(drawn, recompute(model, SEEDS, labels, temperature=0.7))
    assert len(np.unique(drawn)) == 4


def test_many_levels_and_one_image_by_itself():
    model = build((2, 2, 1), num_levels=256)
    drawn = numpy(model.sample(SEEDS))
    np.testing.assert_array_equal(numpy(model.sample(SEEDS[5:6]))[0], drawn[5])


def test_causality():
    """By gradient with respect to what stands before each token: no blind spot."""
    model = build((2, 2, 3))
    network, places = model.network, np.arange(12)
    # One copy of four sequences for each token, of which that token alone is looked at.
    x = np.random.default_rng(0).normal(size=(1, 4, 12, 16)).repeat(12, axis=0)
    looked_at = np.eye(12, dtype="float32").repeat(4, axis=0)[..., None]
    gradient = input_gradient(
        lambda x: ops.sum(ops.square(network.run(x)) * looked_at),
        ops.convert_to_tensor(x.reshape(48, 12, 16).astype("float32")),
    )
    seen = (numpy(gradient).reshape(12, 4, 12, 16) != 0).any(axis=(1, 3))
    np.testing.assert_array_equal(seen, places <= places[:, None])  # 0 is the start
    tokens = np.random.default_rng(0).integers(0, 4, (2, 12))
    before = numpy(network(tokens))
    tokens[:, 6] = (tokens[:, 6] + 1) % 4
    changed = (numpy(network(tokens)) != before).any(axis=(0, 2))
    np.testing.assert_array_equal(changed, places > 6)


def test_training_hides_classes():
    model = build(num_classes=3, label_dropout=0.3)
    images, labels, seeds = np.zeros((32, 4, 3, 1), "uint8"), np.arange(32) % 3, np.arange(32)
    hidden = np.where(numpy(random.uniform(seeds.astype("int32"), (), 2)) < 0.3, 3, labels)
    assert 4 < (hidden == 3).sum() < 16
    batch = Batch(*(ops.convert_to_tensor(x) for x in (images, *np.int32([labels, seeds]))))
    for training, given in ((True, hidden), (False, labels)):
        loss = float(model.objective(batch, training)[0])
        expected = -numpy(model.log_prob(images, given.astype("int32"))).mean()
        assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "shape, num_levels, num_classes",
    [((2, 2, 1), 2, 2), ((2, 1, 1), 4, None), ((1, 1, 3), 3, None)],
)
def test_probabilities_sum_to_one(shape, num_levels, num_classes, total_probability):
    model = build(shape, num_levels=num_levels, num_classes=num_classes)
    np.testing.assert_allclose(total_probability(model), 1, atol=1e-5)


def test_samples_follow_the_probabilities():
    model = build((2, 2, 1), num_levels=2)
    grid = np.array([[i >> 3 & 1, i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(16)])
    images = (255 * grid).astype("uint8").reshape(-1, 2, 2, 1)
    n = 20_000
    expected = np.exp(numpy(model.log_prob(images)).astype("float64")) * n
    drawn = model.generate(n, batch_size=n, progress=False).reshape(n, -1) // 255
    counts = np.bincount(drawn @ [8, 4, 2, 1], minlength=16)
    assert np.sum((counts - expected) ** 2 / expected) < 15 + 4 * np.sqrt(30)


# Options -------------------------------------------------------------------------------


def test_guidance():
    model, labels = build((2, 3, 1), num_classes=3), SEEDS % 3
    plain = numpy(model.sample(SEEDS, labels))
    for scale in (0.0, 2.5):
        drawn = numpy(model.sample(SEEDS, labels, guidance_scale=scale))
        np.testing.assert_array_equal(drawn, recompute(model, SEEDS, labels, scale=scale))
        assert (drawn != plain).any()
    # Without a class every label gives the same.
    free = [numpy(model.sample(SEEDS, c, guidance_scale=0.0)) for c in (labels, (labels + 1) % 3)]
    np.testing.assert_array_equal(*free)


def test_options_may_change():
    """Nothing of other options is left: each call gives what the sampler gives by itself."""
    model = build((2, 3, 1))
    calls = [model.generate(seeds=SEEDS, temperature=t) for t in (0.5, 2.0, 0.5)]
    np.testing.assert_array_equal(calls[0], calls[2])
    np.testing.assert_array_equal(calls[1], numpy(model.sample(SEEDS, temperature=2.0)))
    assert (calls[0] != calls[1]).any()


def test_greedy():
    model = build((2, 2, 1))
    greedy = numpy(model.sample(SEEDS, top_k=1))
    assert (greedy == greedy[:1]).all()
    np.testing.assert_array_equal(greedy, numpy(model.sample(SEEDS, top_p=1e-6)))
    np.testing.assert_array_equal(greedy, numpy(model.sample(SEEDS, temperature=1e-4)))
    plain = numpy(model.sample(SEEDS))
    np.testing.assert_array_equal(plain, numpy(model.sample(SEEDS, top_k=4, top_p=1.0)))


def test_the_likeliest_are_kept():
    logits = np.log(np.array([[0.1, 0.4, 0.2, 0.3], [0.97, 0.01, 0.01, 0.01]], "float32"))
    for options, kept in (
        ({"top_k": 2}, [[0, 1, 0, 1], [1, 1, 0, 0]]),  # of equal ones the first
        ({"top_p": 0.65}, [[0, 1, 0, 1], [1, 0, 0, 0]]),
        ({"top_p": 0.75}, [[0, 1, 1, 1], [1, 0, 0, 0]]),
        ({"top_k": 1, "top_p": 0.9}, [[0, 1, 0, 0], [1, 0, 0, 0]]),
        ({"top_k": 9}, [[1, 1, 1, 1], [1, 1, 1, 1]]),
    ):
        found = numpy(keep_likeliest(ops.convert_to_tensor(logits), **options))
        np.testing.assert_array_equal(found > -1e29, np.array(kept, bool), err_msg=str(options))
        np.testing.assert_array_equal(found[found > -1e29], logits[np.array(kept, bool)])


LIKELIEST = """
import numpy as np
from keras import ops
from kgen.models.autoregressive.sampling import keep_likeliest

def kept(logits):
    kept = [keep_likeliest(logits, *options) for options in ((1,), (3,), (None, 0.5), (3, 0.7))]
    return ops.stack(kept) > -1e29

logits = np.random.default_rng(0).integers(0, 3, (16, 7)).astype("float32")
print(ops.convert_to_numpy(kept(ops.convert_to_tensor(logits))).astype(int).tolist())
"""


def test_of_equal_ones_the_first_are_kept_on_every_runtime(capsys, on_jax, tensorflow_only):
    import onnxruntime
    import tensorflow as tf
    import tf2onnx

    scope = {}
    exec(LIKELIEST, scope)
    found = capsys.readouterr().out
    assert on_jax(LIKELIEST) == found
    found = np.array(json.loads(found))
    assert (found[0].sum(axis=-1) == 1).all() and (found[1].sum(axis=-1) == 3).all()
    np.testing.assert_array_equal(np.argmax(found[0], -1), np.argmax(scope["logits"], -1))
    signature = [tf.TensorSpec([None, 7], tf.float32, name="logits")]
    onnx, _ = tf2onnx.convert.from_function(tf.function(scope["kept"]), signature, opset=18)
    session = onnxruntime.InferenceSession(
        onnx.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (kept,) = session.run(None, {"logits": scope["logits"]})
    np.testing.assert_array_equal(kept, found)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"temperature": 0}, r"temperature must be above 0\. Received: temperature=0"),
        ({"top_k": 0}, r"top_k must be a positive int, or None\. Received: top_k=0"),
        ({"top_p": 1.5}, r"top_p must be above 0 and at most 1, or None\. Received: top_p=1.5"),
        (
            {"guidance_scale": 2.0},
            r"build the model with num_classes\. Received: guidance_scale=2.0",
        ),
        ({"topk": 3}, "Unknown option 'topk'. Did you mean 'top_k'?"),
    ],
)
def test_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build((2, 2, 1), num_layers=1).generate(2, **options)


@pytest.mark.parametrize("channels", [1, 3])
def test_completion(channels):
    model = build((3, 3, channels))
    images = 85 * np.random.default_rng(1).integers(0, 4, (7, 3, 3, channels), "uint8")
    mask = np.zeros((3, 3), bool)
    mask[:1], mask[1, :1] = True, True
    drawn = model.complete(images, mask, seeds=SEEDS, temperature=0.8)
    np.testing.assert_array_equal(drawn[:, mask], images[:, mask])
    np.testing.assert_array_equal(drawn, recompute(model, SEEDS, None, 0.8, images, mask))
    assert (drawn != images).any()


# Palettes ------------------------------------------------------------------------------


def test_a_palette_is_learnt_and_drawn_from():
    rng = np.random.default_rng(0)
    colors = np.array([[250, 10, 20], [0, 200, 30], [40, 40, 240], [255, 255, 255]])
    picked = rng.integers(0, 4, (64, 4, 3))
    images = np.clip(colors[picked] + rng.integers(-4, 5, (64, 4, 3, 3)), 0, 255).astype("uint8")
    model = ImageGPT((4, 3, 3), dim=16, num_layers=1, num_heads=2, num_colors=4)
    assert model.network.length == 12
    model.compile()
    model.fit(images, epochs=1, batch_size=16, verbose=0)
    palette = numpy(model.palette)
    nearest = np.abs(palette[None] - colors[:, None]).max(axis=-1)
    assert nearest.min(axis=1).max() <= 4, "every colour is found"
    drawn = numpy(model.sample(np.arange(8, dtype="int32")))
    assert np.isin(drawn.reshape(-1, 3) @ [1, 256, 65536], palette @ [1, 256, 65536]).all()
    cut = model.cut_to_levels(images)
    assert np.abs(cut.astype(int) - images).max() <= 8
    np.testing.assert_array_equal(model.cut_to_levels(cut), cut)
    mask = np.arange(12).reshape(4, 3) < 6
    np.testing.assert_array_equal(model.complete(cut, mask)[:, mask], cut[:, mask])
    with pytest.raises(ValueError, match="4 colours, see its palette"):
        model.complete(images, mask)
    assert not model.likelihood_protocol()["discrete"]
    before = palette.copy()
    model.fit(images[::-1], epochs=2, initial_epoch=1, batch_size=16, verbose=0)
    np.testing.assert_array_equal(numpy(model.palette), before)


def test_palettes_that_cannot_be_learnt():
    model = ImageGPT((4, 3, 3), dim=16, num_layers=1, num_heads=2, num_colors=8)
    model.compile()
    black = np.zeros((16, 4, 3, 3), "uint8")
    with pytest.raises(ValueError, match=r"palette of 8 colours cannot be learnt .* have 1\."):
        model.fit(black, batch_size=8)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return (black,)

    with pytest.raises(ValueError, match=r"call model.adapt\(images\)"):
        model.fit(Batches())


# Training ------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_learns_stripes_by_class():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 512).astype("int32")
    rows = rng.integers(0, 2, (512, 6, 1, 1))
    striped = np.broadcast_to(rows, (512, 6, 6, 1))
    images = np.where(labels[:, None, None, None] == 0, striped, striped.swapaxes(1, 2))
    images = (255 * images).astype("uint8")
    model = kgen.models.ImageGPT(
        (6, 6, 1), num_classes=2, dim=32, num_layers=2, num_heads=2, num_levels=2
    )
    model.compile(learning_rate=3e-3)
    model.fit(images, labels, epochs=15, batch_size=32, verbose=0)
    nats = model.negative_log_likelihood(images, labels).mean()
    assert nats == pytest.approx(6 * np.log(2), abs=0.5)
    drawn = model.generate(60, labels=np.arange(60) % 2)
    assert (drawn[::2] == drawn[::2, :, :1]).all(axis=(1, 2, 3)).mean() > 0.8
    assert (drawn[1::2] == drawn[1::2, :1]).all(axis=(1, 2, 3)).mean() > 0.8


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mlp": "relu"}, "Unknown mlp 'relu'"),
        ({"norm": "batch"}, "Unknown norm 'batch'"),
        (
            {"num_colors": 1, "num_levels": 256},
            "must be an int of 2 to 4096, or None. Received: num_colors=1",
        ),
        ({"num_colors": 8}, "give one of the two. Received: num_levels=4, num_colors=8"),
        (
            {"label_dropout": 1.0},
            "label_dropout must be 0 or more and below 1. Received: label_dropout=1.0",
        ),
        ({"num_heads": 3}, "num_heads must divide dim.*Received: dim=16, num_heads=3, rotary=True"),
        ({"num_heads": 8}, "a head must have a multiple of 4 features"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
