import keras
import numpy as np
import pytest
from keras import ops

from kgen import random
from kgen.models import DDPM, VAE, DiT, FlowMatching, SoFlow, SoFlowDiT
from kgen.training.step import Batch

IMAGES = np.random.default_rng(0).integers(0, 256, (48, 8, 8, 1), "uint8")
LABELS = np.arange(48, dtype="int32") % 3
RNG = np.random.default_rng(0)


def numpy(x):
    return ops.convert_to_numpy(x)


def small(num_classes=3, scale=0.1, prediction="velocity", **overrides):
    sizes = {"filters": 8, "multipliers": (1,)}
    model = SoFlow((8, 8, 1), num_classes, prediction=prediction, **sizes, **overrides)
    for network in (model.network, model.ema_network):
        for weight in network.weights:
            weight.assign(RNG.normal(size=weight.shape) * scale)
    return model


@pytest.mark.parametrize(
    ("taken", "prediction"), [(0, "velocity"), (2500, "velocity"), (20_000, "velocity"), (0, "x")]
)
def test_the_loss_against_the_paper(taken, prediction):
    """Luo et al. (2025): the velocity where the end is the time; elsewhere a step along the line,
    and on by the network itself. Lu et al. (2026): of an image, the velocity that leads there."""
    model = small(None, flow_share=0.5, share_steps=10_000, prediction=prediction)
    model.training_steps.assign(taken)
    seeds = np.arange(48, dtype="int32")
    batch = Batch(ops.convert_to_tensor(IMAGES), None, ops.convert_to_tensor(seeds))
    loss, logs = model.objective(batch, training=False)
    x = IMAGES.astype("float32") / 127.5 - 1
    noise = numpy(random.normal(seeds, (8, 8, 1)))
    t = 1 / (1 + np.exp(-numpy(random.normal(seeds, (), stream=3))))
    flow = numpy(random.uniform(seeds, (), 4)) < 0.5
    t = np.where(flow, t, np.minimum(1, 2 - 2 * numpy(random.uniform(seeds, (), 6))))
    s = np.where(flow, t, t * numpy(random.uniform(seeds, (), 5)))
    share = {0: 0.1, 2500: 0.1 * 50**-0.25, 20_000: 0.002}[taken]
    between = t + share * (s - t)

    def mixed(time):
        time = time[:, None, None, None]
        return ((1 - time) * x + time * noise).astype("float32")

    def say(time):
        inputs = mixed(time), time.astype("float32"), None, None, s.astype("float32")
        said = numpy(model.ema_network(*inputs))
        time = time[:, None, None, None]
        if prediction == "x":
            return (mixed(time[:, 0, 0, 0]) - (1 - time) * said) / np.maximum(time, 0.05) - said
        return said

    velocity = noise - x
    target = share * velocity + (1 - share) * say(between)
    target = np.where(flow[:, None, None, None], velocity, target)
    error = np.square(say(t) - target).mean(axis=(1, 2, 3))
    assert float(loss) == pytest.approx(np.where(flow, error, error / share).mean(), rel=2e-3)
    assert float(logs["velocity_loss"]) == pytest.approx(error[flow].mean(), rel=1e-3)
    assert float(logs["solution_loss"]) == pytest.approx(error[~flow].mean() / share, rel=5e-3)


def test_training_does_not_move_what_is_aimed_at():
    """Of two networks that say the same, but one of which the target comes from, none is moved."""
    model = SoFlow((8, 8, 1), filters=16, multipliers=(1,), ema_decay=0.9)
    images = np.repeat(np.arange(4, dtype="uint8") * 60 + 30, 96)[:, None, None, None]
    images = np.broadcast_to(images, (384, 8, 8, 1))
    model.compile(learning_rate=5e-3)
    history = model.fit(images, batch_size=16, epochs=8, verbose=0).history
    assert history["velocity_loss"][-1] < 0.6 * history["velocity_loss"][0]
    for num_steps in (1, 2, 4):
        drawn = model.generate(16, seed=1, num_steps=num_steps).astype("int32")
        assert drawn.std(axis=(1, 2, 3)).mean() < 50, num_steps


def test_before_it_learns_where_to_go_it_knows_no_ends():
    """So it goes on from a network that was trained without."""
    model = SoFlow((8, 8, 1), 3, filters=8)
    rng = np.random.default_rng(0)
    for weight in model.network.weights:
        if "way_out" not in weight.path:
            weight.assign(rng.normal(size=weight.shape) * 0.1)
    x, times = rng.normal(size=(4, 8, 8, 1)).astype("float32"), np.full(4, 0.7, "float32")
    labels = np.zeros(4, "int32")
    said = [
        numpy(model.network(x, times, labels, None, np.full(4, end, "float32"))) for end in (0, 0.7)
    ]
    np.testing.assert_array_equal(*said)
    assert np.abs(said[0]).max() > 0


def test_its_own_flow_in_place_of_the_line():
    """A share of the way in two steps of Adams and Bashforth, and on by the network."""
    model = small(None, flow_share=0.0, shares=(0.5, 0.5), own_steps=2, passes=1)
    seeds = np.arange(48, dtype="int32")
    batch = Batch(ops.convert_to_tensor(IMAGES), None, ops.convert_to_tensor(seeds))
    loss, logs = model.objective(batch, training=False)
    x = IMAGES.astype("float32") / 127.5 - 1
    t = np.minimum(1, 2 - 2 * numpy(random.uniform(seeds, (), 6)))
    along = t[:, None, None, None]
    x = (1 - along) * x + along * numpy(random.normal(seeds, (8, 8, 1)))

    def say(x, time, end):
        return numpy(model.ema_network(x, time, None, None, end))

    end = np.zeros_like(t)
    first = say(x, t, t)
    quarter = x - 0.25 * along * first
    second = 1.5 * say(quarter, 0.75 * t, 0.75 * t) - 0.5 * first
    half = quarter - 0.25 * along * second
    target = 0.25 * (first + second) + 0.5 * say(half, 0.5 * t, end)
    error = np.square(say(x, t, end) - target).mean(axis=(1, 2, 3))
    assert float(loss) == pytest.approx(2 * error.mean(), rel=1e-3)
    assert float(logs["velocity_loss"]) == 0


@pytest.mark.parametrize("passes", [1, 2, 4])
def test_a_model_of_some_passes_learns_these_ways_alone(passes):
    model = small(None, passes=passes)
    times = np.array([1e-3, 0.2, 0.25, 0.3, 0.5, 0.50001, 0.9, 1.0], "float32")
    ends = numpy(model._draw_ends(ops.convert_to_tensor(times), np.arange(8, dtype="int32")))
    below = [max(k / passes for k in range(passes) if k / passes < time) for time in times]
    np.testing.assert_allclose(ends, below, atol=1e-6)
    assert model.generate(2).shape == (2, 8, 8, 1)
    np.testing.assert_array_equal(model.generate(2), model.generate(2, num_steps=passes))


@pytest.mark.parametrize("prediction", ["velocity", pytest.param("x", marks=pytest.mark.slow)])
def test_a_student_begins_as_its_teacher_and_draws_its_images_in_one_pass(prediction):
    images = np.where(np.arange(384)[:, None, None, None] % 2, 220, 30).astype("uint8")
    images = np.broadcast_to(images, (384, 8, 8, 1))
    keras.utils.set_random_seed(0)
    sizes = {"filters": 16, "multipliers": (1,)}
    teacher = FlowMatching((8, 8, 1), ema_decay=0.9, prediction=prediction, **sizes)
    with pytest.raises(ValueError, match="and this FlowMatching has fresh weights"):
        teacher.distill()
    teacher.compile(learning_rate=5e-3)
    teacher.fit(images, batch_size=16, epochs=10, verbose=0)
    student = teacher.distill(num_steps=1)
    assert (student.own_steps, student.shares, student.flow_share) == (4, (1.0, 1.0), 0.25)
    assert isinstance(student, SoFlow) and student.filters == 16 and not student.compiled
    assert student.prediction == prediction
    x = RNG.normal(size=(4, 8, 8, 1)).astype("float32")
    times, ends = np.full(4, 0.7, "float32"), np.full(4, 0.1, "float32")
    said = student.network(x, times, None, None, ends)
    np.testing.assert_allclose(numpy(said), numpy(teacher.ema_network(x, times)), atol=1e-5)
    many = teacher.generate(32, seed=1, num_steps=4).astype(int)  # as many as it is taught by
    student.compile(learning_rate=2e-3)
    student.fit(images, batch_size=16, epochs=10, verbose=0)
    few = student.generate(32, seed=1).astype(int)
    bright, drawn = many.mean(axis=(1, 2, 3)), few.mean(axis=(1, 2, 3))
    assert 4 < (bright > 128).sum() < 28  # it draws both
    assert np.corrcoef(bright, drawn)[0, 1] > 0.6
    assert np.abs(few - many).mean() < 0.5 * np.abs(few - many[::-1]).mean()


def test_a_student_of_a_model_on_latents_keeps_its_autoencoder():
    vae = VAE.from_preset("vae_tiny", latent_dim=None, latent_channels=2)
    vae.training_steps.assign(1)
    teacher = DiT((8, 8, 1), 3, autoencoder=vae, patch_size=1, dim=16, num_layers=2, num_heads=2)
    teacher.adapt(IMAGES, LABELS)
    teacher.training_steps.assign(1)
    student = teacher.distill(num_steps=2)
    assert isinstance(student, SoFlowDiT) and student.passes == 2
    for ours, theirs in zip(student.autoencoder.weights, teacher.autoencoder.weights, strict=True):
        np.testing.assert_array_equal(numpy(ours), numpy(theirs))
    np.testing.assert_array_equal(numpy(student.latent_spread), numpy(teacher.latent_spread))
    assert not student.needs_adapting() and not student.diagnose_before()


def test_each_pass_goes_a_part_of_the_way():
    model = small()
    seeds, labels = np.arange(3, dtype="int32"), np.array([0, 1, 2], "int32")
    x = numpy(random.normal(seeds, (8, 8, 1)))
    for now, later in ((1.0, 0.5), (0.5, 0.0)):
        now, later = (np.full(3, time, "float32") for time in (now, later))
        velocity = numpy(model.ema_network(x, now, labels, None, later))
        x = x + (later - now)[:, None, None, None] * velocity
    expected = numpy(model.to_images(ops.convert_to_tensor(x))).astype(int)
    drawn = model.generate(seeds=seeds, labels=labels, num_steps=2)
    assert np.abs(drawn - expected).max() <= 1
    latents = numpy(random.normal(seeds, (64,))).reshape(3, 64)
    decoded = model.run_endpoint("decode", {"latent": latents}, labels, num_steps=2)
    assert np.abs(decoded.astype(int) - drawn).max() <= 1


def test_what_is_known_stays():
    model = small()
    mask = np.zeros((8, 8), "uint8")
    mask[:, 3:] = 1
    drawn = model.inpaint(IMAGES[:8], mask, labels=1, seed=3, num_steps=2)
    np.testing.assert_array_equal(drawn[:, :, 3:], IMAGES[:8, :, 3:])
    unchanged = model.vary(IMAGES[:2], 0.0, labels=1)
    np.testing.assert_array_equal(unchanged, IMAGES[:2])


def test_bad_input():
    model = small()
    assert "encode" not in model.endpoints() and model.likelihood_protocol() is None
    for call, message in [
        (lambda: small(flow_share=2.0), "flow_share must be"),
        (lambda: small(share_steps=0), "share_steps must be"),
        (lambda: small(shares=(0.1, 0)), r"shares\[1\] must be"),
        (lambda: small(own_steps=-1), "own_steps must be"),
        (
            lambda: small(prediction="noise"),
            "mean velocities of the straight",
        ),
        (lambda: small(passes=0), "passes must be"),
        (lambda: model.generate(2, labels=1, num_steps=0), "num_steps must be"),
        (lambda: small(passes=2).generate(2, labels=1, num_steps=1), "draw in passes=2 of the"),
        (lambda: DDPM((8, 8, 1), filters=8).distill(), "DDPM with 'cosine' and 'noise'"),
        (model.distill, "such as FlowMatching or DiT. Received: SoFlow"),
        (lambda: model.generate(2, labels=1, sampler="heun"), "Unknown option 'sampler'"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
