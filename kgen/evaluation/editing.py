"""Images that are found in a latent space, and changed there: another class, or the way to one."""

import numpy as np

from kgen.checks import check_int
from kgen.evaluation import features
from kgen.evaluation.interpolation import prior_latents
from kgen.generation import row_seeds


def latents_of(model, images, labels=None, batch_size=64):
    """The latent vectors of images, float32 `[N, latent_dim]`.

    By the model's endpoint `invert` (a GAN's) or the mean of its `encode` (a VAE's); a `ValueError`
    where it has neither. Images are uint8 `[N, H, W, C]`, with labels of a conditional model.
    """
    split = model.check_split(images, labels)
    endpoints = model.endpoints()
    name = next((name for name in ("invert", "encode") if name in endpoints), None)
    if name is None or "decode" not in endpoints:
        raise ValueError(
            f"{type(model).__name__} finds no latent vectors of images: among its endpoints "
            f"({', '.join(endpoints)}) there is neither invert nor encode."
        )
    inputs = {"image": split.images}
    found = model.run_endpoint(name, inputs, split.labels, batch_size=batch_size)
    return found["latent"] if "latent" in endpoints[name].outputs else found["mean"]


def decode(model, latents, labels=None, batch_size=64):
    """The images, uint8 `[N, H, W, C]`, of latent vectors `[N, latent_dim]`."""
    inputs = {"latent": np.asarray(latents, "float32")}
    return model.run_endpoint("decode", inputs, labels, batch_size=batch_size)


def class_directions(model, n=2000, seed=0, extractor="auto", batch_size=64):
    """Where in the latent space of an unconditional model the classes lie, that a classifier sees.

    A dict of class to a float32 unit vector `[latent_dim]`: from the mean latent vector of all
    images that were drawn to that of those which show the class, as in Radford, Metz and Chintala,
    "Unsupervised representation learning with deep convolutional generative adversarial networks"
    (ICLR 2016; arXiv 1511.06434), section 6.3.2. Classes that hardly occur have none.

    Args:
        model: Unconditional `ImageGenerator` with an endpoint `decode`. (A conditional one draws
            any latent vector as any class: `decode(model, latents, labels)`.)
        n: Int, images to draw.
        seed: Int, from which they are drawn.
        extractor: Name of a feature extractor with a classifier, or one itself, see
            `kgen.evaluation.features.get`.
        batch_size: Int.

    Raises:
        ValueError: The model is conditional or has no `decode`, or the extractor no classifier.
    """
    if model.num_classes is not None:
        raise ValueError(
            f"This {type(model).__name__} is told the class: draw latent vectors as another one by "
            "kgen.evaluation.editing.decode(model, latents, labels). Received: num_classes="
            f"{model.num_classes}"
        )
    if "decode" not in model.endpoints():
        raise ValueError(f"{type(model).__name__} has no endpoint decode from a latent vector.")
    extractor = features.get(extractor, model.image_shape)
    if extractor.num_classes is None:
        raise ValueError(
            f"{extractor.name} tells no classes apart: give an extractor with a classifier, such "
            "as 'lenet128' for digits or 'cifar_cnn'."
        )
    n = check_int(1, n=n)
    latents = prior_latents(model, row_seeds(n, seed))
    images = decode(model, latents, batch_size=batch_size)
    found = features.extract(extractor, images, cache=False)
    seen = np.argmax(extractor.probabilities(found), axis=-1)
    directions = {}
    for c in range(extractor.num_classes):
        if np.count_nonzero(seen == c) >= 10:
            direction = latents[seen == c].mean(0) - latents.mean(0)
            directions[c] = (direction / np.linalg.norm(direction)).astype("float32")
    return directions


def edit(model, latents, direction, strengths=(0, 1, 2, 3, 4), labels=None, batch_size=64):
    """Images further and further along a direction, uint8 `[N, strengths, H, W, C]`.

    Of latent vectors `[N, latent_dim]` and a unit vector `[latent_dim]`. A strength is a distance
    in the latent space, in which vectors are about `sqrt(latent_dim)` long; it stays so.
    """
    latents = np.asarray(latents, "float32")[:, None]
    ways = latents + np.asarray(strengths, "float32")[:, None] * direction
    # The model has seen vectors of one length alone.
    lengths = [np.linalg.norm(x, axis=-1, keepdims=True) for x in (latents, ways)]
    ways = ways * lengths[0] / np.maximum(lengths[1], 1e-6)
    count, steps, size = ways.shape
    labels = None if labels is None else np.repeat(labels, steps)
    images = decode(model, ways.reshape(-1, size), labels, batch_size)
    return images.reshape(count, steps, *model.image_shape)


def as_classes(model, latents, towards=None, seed=0, batch_size=64, extractor="auto"):
    """Latent vectors drawn as every class: images `[N, columns, H, W, C]`, and a list of classes.

    A conditional model draws each vector as each of its classes. One that is told none goes half a
    vector's length towards each class of `class_directions`, which takes `seed` and `extractor`; or
    in six steps to the one class `towards`. A `ValueError` where `towards` is none of them, or the
    model is told the class.
    """
    if model.num_classes is not None:
        if towards is not None:
            raise ValueError(
                f"This {type(model).__name__} is told the class, and draws every one: leave "
                f"towards (--towards) out. Received: towards={towards}"
            )
        classes = list(range(model.num_classes))
        latents, labels = np.repeat(latents, len(classes), axis=0), np.tile(classes, len(latents))
        images = decode(model, latents, labels, batch_size)
        return images.reshape(-1, len(classes), *model.image_shape), classes
    directions = class_directions(model, seed=seed, extractor=extractor, batch_size=batch_size)
    if towards is not None and towards not in directions:
        raise ValueError(
            f"The model draws no class {towards} that the classifier sees. It draws: "
            f"{', '.join(map(str, directions))}"
        )
    length = float(np.linalg.norm(latents, axis=-1).mean())
    classes = list(directions) if towards is None else [towards]
    strengths = length * (np.array([0.5]) if towards is None else np.linspace(0.1, 0.6, 6))
    columns = [
        edit(model, latents, directions[c], strengths, batch_size=batch_size) for c in classes
    ]
    return np.concatenate(columns, axis=1), classes
