"""What all adversarial models share, at a tiny one of each: heads, regularisers, inversion."""

import inspect

import keras
import numpy as np
import pytest
from keras import layers, ops

import kgen
from kgen.models.gan import inversion
from kgen.models.gan import losses as adversarial
from kgen.models.gan.base import AdversarialGenerator
from kgen.training.step import Batch

EAGER = keras.backend.backend() == "tensorflow"
IMAGES = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 1), "uint8")
LABELS = np.arange(32, dtype="int32") % 3
MODELS = [
    name
    for name, model in kgen.models.registered().items()
    if issubclass(model, AdversarialGenerator)
]


def tiny(name="dcgan", **arguments):
    keras.utils.set_random_seed(0)
    return kgen.models.get(name).from_preset(f"{name}_tiny", **arguments)


def batch(labels=None):
    labels = None if labels is None else ops.convert_to_tensor(labels)
    return Batch(ops.convert_to_tensor(IMAGES), labels, kgen.random.row_seeds(5, len(IMAGES)))


def pixels(seed):
    values = np.random.default_rng(seed).uniform(-1, 1, IMAGES.shape)
    return ops.convert_to_tensor(values.astype("float32"))


def number(tensor):
    return float(ops.convert_to_numpy(tensor))


def test_there_are_four():
    assert MODELS == ["dcgan", "resnet_gan", "r3gan", "vit_gan"]


@pytest.mark.parametrize("name", MODELS)
def test_images_of_other_shapes(name):
    model = (
        tiny(name, image_shape=(12, 16, 4), patch_size=4)
        if name == "vit_gan"
        else tiny(name, image_shape=(12, 16, 4))
    )
    assert model.generator.output_shape == (None, 12, 16, 4)
    assert model.discriminator.output_shape == (None, 1)
    drawn = ops.convert_to_numpy(model.generator(np.zeros((2, 8), "float32")))
    assert np.abs(drawn).max() <= 1


# The class ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_the_projection_is_the_papers_formula(name):
    """Miyato and Koyama (2018), equation 3: psi(f) + (V y) . f."""
    model = tiny(name, num_classes=3)
    one_hot = ops.convert_to_tensor(np.eye(3, dtype="float32")[LABELS])
    discriminator = model.discriminator
    logits = ops.convert_to_numpy(discriminator([pixels(1), one_hot], training=False))
    inside = keras.Model(discriminator.inputs, discriminator.get_layer("features").output)
    features = ops.convert_to_numpy(inside([pixels(1), one_hot], training=False))
    dense = [layer for layer in discriminator.layers if "Dense" in type(layer).__name__]
    psi, directions = sorted(dense[-2:], key=lambda layer: layer.units)

    def matrix(layer):
        kernel = layer.normalized_kernel() if hasattr(layer, "normalized_kernel") else layer.kernel
        return ops.convert_to_numpy(kernel)

    expected = features @ matrix(psi)
    if psi.bias is not None:
        expected = expected + ops.convert_to_numpy(psi.bias)
    expected[:, 0] += (ops.convert_to_numpy(one_hot) * (features @ matrix(directions))).sum(-1)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_the_auxiliary_head_tells_classes(name):
    """The cross-entropies of both kinds of images are added, of generated ones to the generator's.

    By Keras's own cross-entropy.
    """
    model = tiny(name, num_classes=3, class_head="auxiliary", auxiliary_weight=2.0)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain = {"label_smoothing": 0.0, "r1_weight": 0.0, "r2_weight": 0.0}
    for argument, value in plain.items():
        setattr(model, argument, value)
    # Until the estimates of spectral norms have settled; a norm of the batch needs no passes.
    for _ in range(0 if model.normalized else 300):
        model.discriminator(pixels(1), training=True)
    said = [model.discriminator(pixels(seed), training=True) for seed in (1, 2)]
    logits, classes = ([each[:, :1][:, 0] for each in said], [each[:, 1:] for each in said])
    expected = model.losses_of_players.discriminator(*logits)
    expected += 2 * sum(cross_entropy(LABELS, each) for each in classes)
    loss, _ = model.discriminator_objective(batch(LABELS), pixels(1), pixels(2), 0)
    assert number(loss) == pytest.approx(number(expected), rel=1e-3)
    loss, _ = model._generator_loss(batch(LABELS), pixels(1), pixels(2), training=False)
    of_generator = model.losses_of_players.generator
    paired = model.losses_of_players.paired
    expected = of_generator(logits[1], logits[0]) if paired else of_generator(logits[1])
    expected += 2 * cross_entropy(LABELS, classes[1])
    assert number(loss) == pytest.approx(number(expected), rel=1e-3)


def test_an_auxiliary_head_trains_and_is_saved(tmp_path):
    model = tiny("resnet_gan", num_classes=3, class_head="auxiliary")
    model.compile(run_eagerly=EAGER)
    model.fit(IMAGES, LABELS, batch_size=32, epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.class_head == "auxiliary" and again.discriminator.output_shape == (None, 4)
    np.testing.assert_array_equal(again.generate(3, labels=1), model.generate(3, labels=1))


# Regularisers ---------------------------------------------------------------------------


def added(name, value, training=True, **arguments):
    """What an argument adds to the discriminator's and the generator's loss."""
    losses = []
    for setting in (0.0, value):
        model = tiny(**{name: setting}, **arguments)
        ours, _ = model.discriminator_objective(batch(), pixels(1), pixels(2), 0, training)
        theirs, _ = model._generator_loss(batch(), pixels(1), pixels(2), training)
        losses.append((number(ours), number(theirs)))
    return model, losses[1][0] - losses[0][0], losses[1][1] - losses[0][1]


def test_lecam_by_hand():
    real, fake = (ops.convert_to_tensor(np.float32(x)) for x in ([2.0, -0.5], [1.0, -3.0]))
    expected = ((2 + 1) ** 2 + (-0.5 + 1) ** 2) / 2 + ((1 - 0.5) ** 2 + (-3 - 0.5) ** 2) / 2
    assert number(adversarial.lecam(real, fake, 0.5, -1.0)) == pytest.approx(expected)


def test_lecam_pulls_logits_to_anchors_that_follow_them():
    model, ours, theirs = added("lecam_weight", 3.0)
    logits = [ops.convert_to_numpy(model._discriminate(pixels(seed), None)) for seed in (1, 2)]
    assert ours == pytest.approx(3 * sum((each**2).mean() for each in logits), rel=1e-3)
    assert theirs == 0
    anchors = ops.convert_to_numpy(model.anchors)
    np.testing.assert_allclose(anchors, [0.01 * each.mean() for each in logits], rtol=1e-2)
    model.discriminator_objective(batch(), pixels(1), pixels(2), 0, training=False)
    np.testing.assert_array_equal(ops.convert_to_numpy(model.anchors), anchors)


def test_feature_matching_compares_mean_features():
    model, ours, theirs = added("feature_matching_weight", 2.0)
    discriminator = model.discriminator
    inside = keras.Model(discriminator.inputs, discriminator.get_layer("features").output)
    means = [ops.convert_to_numpy(inside([pixels(seed)], training=True)).mean(0) for seed in (1, 2)]
    expected = 2 * ((means[0] - means[1]) ** 2).sum()
    assert theirs == pytest.approx(expected, rel=1e-2, abs=1e-6) and ours == 0
    assert number(adversarial.feature_matching(*map(ops.convert_to_tensor, means))) > 0


def test_feature_matching_needs_features():
    given = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(1)])
    with pytest.raises(ValueError, match=r"feature_matching_weight needs .* named 'features'"):
        tiny(feature_matching_weight=1.0, discriminator=given)


def test_instance_noise_fades_in_the_burn_in():
    model = tiny(instance_noise=0.5, burn_in_steps=100)
    zeros = ops.zeros(IMAGES.shape)

    def spread(step, training=True):
        model.training_steps.assign(step)
        return ops.convert_to_numpy(model._seen(zeros, batch(), 2, training)).std()

    assert spread(0) == pytest.approx(0.5, rel=0.05)
    assert spread(50) == pytest.approx(0.25, rel=0.05)
    assert spread(100) == spread(1000) == spread(0, training=False) == 0
    forever = tiny(instance_noise=0.5)
    forever.training_steps.assign(100_000)
    noise = ops.convert_to_numpy(forever._seen(zeros, batch(), 2, True))
    assert noise.std() == pytest.approx(0.5, rel=0.05)
    other = ops.convert_to_numpy(forever._seen(zeros, batch(), 3, True))
    assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 0.1


def test_penalties_fade_to_a_tenth_in_the_burn_in():
    model = tiny("r3gan", burn_in_steps=100)
    found = []
    for step in (0, 50, 100, 1000):
        model.training_steps.assign(step)
        penalised, _ = model.discriminator_objective(batch(), pixels(1), pixels(2), 0)
        plain, _ = model.discriminator_objective(batch(), pixels(1), pixels(2), 0, training=False)
        found.append(number(penalised) - number(plain))
    assert found[1] == pytest.approx(0.55 * found[0], rel=1e-3)
    assert found[2] == found[3] == pytest.approx(0.1 * found[0], rel=1e-3)


@pytest.mark.parametrize("name", ["r3gan", "vit_gan"])
def test_the_finite_difference_is_the_exact_penalty(name):
    """On average over directions; with one logit's slope by differences of its own."""
    penalties = {}
    for kind in ("exact", "finite_difference"):
        model = tiny(name, r1_weight=1.0, r2_weight=0.0, penalty=kind)
        # Networks without their zeros, which have slopes of all kinds.
        rng = np.random.default_rng(0)
        for variable in model.discriminator.trainable_variables:
            variable.assign(variable + rng.normal(0, 0.1, variable.shape))
        total = 0.0
        for seed in range(8):
            some = batch()._replace(seeds=kgen.random.row_seeds(seed, len(IMAGES)))
            penalised, _ = model.discriminator_objective(some, pixels(1), pixels(2), 0)
            plain, _ = model.discriminator_objective(some, pixels(1), pixels(2), 0, training=False)
            total += number(penalised) - number(plain)
        penalties[kind] = total / 8
    assert penalties["finite_difference"] == pytest.approx(penalties["exact"], rel=0.3)
    assert penalties["exact"] > 0


# Adaptive augmentation ------------------------------------------------------------------


def test_augmentation_adapts_to_overfitting():
    """More while over 80 % of real images are told right, less below; never beyond 0 and 1."""
    model = tiny(augmentation=("colour", "cutout"), augmentation_probability="adaptive")
    model.compile(run_eagerly=EAGER)

    def minimize(objective, optimizer, variables):
        _, logs = objective()
        return {**logs, "gradient_norm": ops.zeros(()), "overfitting": ops.convert_to_tensor(r)}

    found = []
    for r in (0.7, 0.7, 0.5, 0.5, 0.5, 0.6):
        r = np.float32(r)
        logs = model.update(batch(), minimize)
        found.append(number(logs["augmentation_probability"]))
    step = 32 / 100_000
    np.testing.assert_allclose(found, [step, 2 * step, step, 0, 0, 0], atol=1e-9)
    model.adapted.assign(1.0)
    r = np.float32(1.0)
    assert number(model.update(batch(), minimize)["augmentation_probability"]) == 1


def test_adaptation_is_logged_and_saved(tmp_path):
    model = tiny(augmentation="cutout", augmentation_probability="adaptive")
    model.compile(run_eagerly=EAGER)
    model.adapted.assign(0.25)
    history = model.fit(IMAGES, batch_size=32, verbose=0, validation_data=IMAGES).history
    assert abs(history["augmentation_probability"][0] - 0.25) < 1e-3
    assert "val_augmentation_probability" not in history
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert number(again.adapted) == number(model.adapted)


# Truncation and inversion ---------------------------------------------------------------


def test_truncation_draws_again():
    model = tiny(latent_dim=64)
    drawn = []
    model.decode = lambda latents, labels: drawn.append(ops.convert_to_numpy(latents))
    seeds = kgen.random.row_seeds(0, 500)
    for truncation in (None, 6.0, 1.0, ops.convert_to_tensor(np.repeat([0.3, 6], 250), "float32")):
        model.sample(seeds, truncation=truncation)
    plain, all_of_them, one, rows = drawn
    np.testing.assert_array_equal(plain, all_of_them)
    assert np.abs(one).max() <= 1
    kept = np.abs(plain) <= 1
    np.testing.assert_array_equal(one[kept], plain[kept])
    # A normal distribution cut off at 1 has this standard deviation.
    assert one.std() == pytest.approx(0.54, abs=0.01)
    assert np.abs(rows[:250]).max() <= np.float32(0.3)
    np.testing.assert_array_equal(rows[250:], plain[250:])


def test_conjugate_gradients_solve():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(4, 6, 9))
    matrices = (root @ root.swapaxes(1, 2) + np.eye(6)).astype("float32")
    vectors = rng.normal(size=(4, 6)).astype("float32")
    solved = inversion._solve(ops.convert_to_tensor(matrices), ops.convert_to_tensor(vectors))
    expected = np.linalg.solve(matrices, vectors[..., None])[..., 0]
    np.testing.assert_allclose(ops.convert_to_numpy(solved), expected, rtol=1e-3, atol=1e-4)


def test_inversion_of_a_linear_generator():
    """Its most likely latent vector is that of ridge regression; each row by itself."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(0, 0.1, (20, 48)).astype("float32")
    offsets = rng.normal(0, 0.1, (3, 48)).astype("float32")
    labels = np.array([0, 2, 1, 0])
    target = (rng.normal(0, 0.5, (4, 20)) @ matrix + offsets[labels]).astype("float32")

    def draw(latents, labels):
        shift = ops.take(ops.convert_to_tensor(offsets), labels, axis=0)
        return ops.matmul(latents, matrix) + shift

    found = inversion.invert(
        draw, ops.convert_to_tensor(target.reshape(4, 4, 4, 3)), ops.convert_to_tensor(labels), 20
    )
    left = matrix @ matrix.T / 0.01 + np.eye(20)
    expected = np.linalg.solve(left, matrix @ (target - offsets[labels]).T / 0.01).T
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", MODELS)
def test_a_drawn_image_is_found_again(name):
    """Nearer than what the middle of the latent space draws, which is where the search begins."""
    model = tiny(name, num_classes=3)
    rng = np.random.default_rng(1)
    for variable in model.ema_generator.variables:  # untrained ones draw grey
        if "variance" not in variable.path:
            variable.assign(variable + rng.normal(0, 0.15, variable.shape))
    labels = np.array([0, 1, 2, 1])
    images = model.generate(4, labels=labels, seed=3)
    found = model.run_endpoint("invert", {"image": images}, labels)
    middle = model.run_endpoint("decode", {"latent": np.zeros((4, 8), "float32")}, labels)

    def error(x):
        return np.abs(x.astype(int) - images).mean()

    assert error(found["image"]) < 0.4 * error(middle) and error(middle) > 4
    drawn = model.run_endpoint("decode", {"latent": found["latent"]}, labels)
    np.testing.assert_array_equal(drawn, found["image"])


# Bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("dcgan", {"class_head": "both"}, "Unknown class_head 'both'. Known: auxiliary, proj"),
        ("dcgan", {"class_head": "auxiliary"}, "tells classes apart: give num_classes"),
        ("dcgan", {"augmentation_probability": 1.5}, "0 to 1. Received: .*1.5"),
        ("dcgan", {"augmentation_probability": "adaptive"}, "needs what is to be adapted"),
        ("dcgan", {"instance_noise": -1.0}, "0 or more. Received: instance_noise=-1.0"),
        ("dcgan", {"lecam_weight": -1.0}, "0 or more. Received: lecam_weight=-1.0"),
        ("dcgan", {"burn_in_steps": 0}, "burn_in_steps=0"),
        ("r3gan", {"image_shape": (10, 8, 1)}, r"R3GAN takes images.* divide by 4"),
        ("r3gan", {"patch_size": 3}, "patch_size must divide"),
        ("r3gan", {"group_size": 3}, "group_size must divide filters"),
        ("r3gan", {"blocks": 0}, "positive int.*blocks=0"),
        ("r3gan", {"r2_weight": -1.0}, "0 or more. Received: r2_weight=-1.0"),
        ("resnet_gan", {"filters": 0}, "positive int.*filters=0"),
        ("resnet_gan", {"image_shape": (132, 8, 1)}, "ResNetGAN takes images.* 8 to 128"),
        ("vit_gan", {"patch_size": 3}, "patch_size must divide"),
        ("vit_gan", {"num_heads": 3}, "num_heads must divide dim"),
    ],
)
def test_bad_arguments(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(name, **arguments)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="is right on other backends")
@pytest.mark.parametrize("layer", ["LayerNormalization", "GroupNormalization"])
def test_a_penalty_whose_gradient_would_be_wrong_is_refused(layer):
    """`keras.ops.moments` on TensorFlow stops the gradient at the mean."""
    normalization = {"axis": -1} if layer == "LayerNormalization" else {"groups": 2}

    def build(**arguments):
        image = keras.Input((8, 8, 1))
        x = keras.layers.Conv2D(4, 3, strides=2)(image)
        x = keras.layers.Flatten()(getattr(keras.layers, layer)(**normalization)(x))
        judge = keras.Model(image, keras.layers.Dense(1)(x))
        return tiny("dcgan", discriminator=judge, **arguments)

    for arguments in ({"r1_weight": 1.0}, {"loss": "relativistic"}, {"loss": "wasserstein_gp"}):
        with pytest.raises(ValueError, match=f"On TensorFlow {layer} has no right second"):
            build(**arguments)
    build()
    build(r1_weight=1.0, penalty="finite_difference")


@pytest.mark.parametrize("name", MODELS)
def test_every_argument_is_kept(name):
    model = tiny(name, num_classes=3)
    config = model.get_config()
    assert inspect.signature(type(model)).parameters.keys() - {"kwargs"} <= config.keys()
    assert type(model).from_config(config).get_config() == config
