"""`Reference`: real images, and every metric of generated images against them.

A number says little alone, so each stands beside three others: the same metric against
training images, whose gap to the held-out ones shows copying; the same metric of *real*
images of the same count, the floor that no generator can beat by being good; and what it
was computed from: how many images, which split, which feature extractor.
"""

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from kgen.checks import check_seed, unknown_name
from kgen.data.splits import Split
from kgen.evaluation import classifiers, metrics
from kgen.evaluation import features as extractors

#: Real images beyond these counts are left out, at random, so that time stays bounded.
MAX_TEST, MAX_TRAIN = 50_000, 60_000

#: Fewer images than this, or than ten per feature, make a Fréchet distance unreliable.
FEW = 2048


#: A class that is drawn this many times more seldom than it occurs is lost.
_LOST = 4


@dataclasses.dataclass(frozen=True)
class Metric:
    """What a metric is called and what it means.

    Args:
        title: String; `{}` stands for the extractor's name.
        better: `"lower"`, `"higher"`, or `None` where neither is.
        meaning: String, one line for a reader.
        needs: What it cannot do without: `"labels"` of the generated images and of the
            reference, a `"classifier"` in the extractor, or `"train"` images.
        against_train: Bool, whether it can also be taken against training images.
        generated: Int, how many generated images it cannot do without.
        real: Int, the same of real ones.
    """

    title: str
    better: str | None
    meaning: str
    needs: tuple = ()
    against_train: bool = True
    generated: int = 2
    real: int = 2


METRICS = {
    "fd": Metric(
        "FD-{}", "lower", "Fréchet distance of Gaussians fitted to the features; 0 for equal ones"
    ),
    "kd": Metric(
        "KD-{}", "lower", "kernel distance (unbiased MMD², cubic polynomial), fair to small samples"
    ),
    "mind": Metric(
        "MIND-{}", "lower", "Monge distance (sliced Wasserstein) of the features, for small samples"
    ),
    "precision": Metric(
        "precision-{}",
        "higher",
        "share of generated images that lie among the real ones",
        generated=6,
        real=6,
    ),
    "recall": Metric(
        "recall-{}",
        "higher",
        "share of real images that lie among the generated ones",
        generated=6,
        real=6,
    ),
    "density": Metric(
        "density-{}",
        "higher",
        "how densely real images surround the generated ones; about 1",
        generated=6,
        real=6,
    ),
    "coverage": Metric(
        "coverage-{}",
        "higher",
        "share of real images with a generated one in their neighbourhood",
        generated=6,
        real=6,
    ),
    "is": Metric(
        "IS-{}",
        "higher",
        "Inception-Score form: sure classes, evenly spread",
        ("classifier",),
        against_train=False,
        generated=10,
        real=0,
    ),
    "label_accuracy": Metric(
        "label-accuracy-{}",
        "higher",
        "share of generated images that the extractor's classifier sees as their label",
        ("classifier", "labels"),
        against_train=False,
    ),
    "class_coverage": Metric(
        "class-coverage-{}",
        "higher",
        "share of the real images' classes that the generated ones have a quarter as often or more",
        ("classifier",),
        against_train=False,
    ),
    "cas": Metric(
        "CAS",
        "higher",
        "classification accuracy score: a classifier trained on generated images, tested on real",
        ("labels",),
        against_train=False,
    ),
    "authenticity": Metric(
        "authenticity-{}",
        None,  # images that resemble nothing are authentic too: it belongs near its floor
        "share of generated images that are no near-copies of training images; the floor is that "
        "of held-out images",
        ("train",),
        against_train=False,
        real=0,
    ),
}

#: Their floor is that of held-out images: training images are copies of themselves, and the
#: extractor's classifier has seen them.
_OF_TEST = ("authenticity", "label_accuracy")

#: What needs a classifier that knows the reference's classes.
_OF_CLASSES = ("label_accuracy", "class_coverage")

_NEIGHBOURS = ("precision", "recall", "density", "coverage")


@dataclasses.dataclass(frozen=True)
class _Sample:
    """Images with their labels and features."""

    images: np.ndarray
    labels: np.ndarray | None
    features: np.ndarray

    def __len__(self):
        return len(self.images)

    def __getitem__(self, rows):
        labels = None if self.labels is None else self.labels[rows]
        return _Sample(self.images[rows], labels, self.features[rows])


class Reference:
    """Real images that generated ones are measured against.

    Args:
        test: `kgen.data.Split` of images that no model was trained on, or uint8
            `[N, H, W, C]`. Of more than 50,000, as many are drawn.
        train: `kgen.data.Split` or uint8 images that the model was trained on, or `None`:
            then there is no floor, no gap and no authenticity. Of more than 60,000, as
            many are drawn.
        features: What the images are compared by, see `kgen.evaluation.features.get`.
        split: String, what the reference is called, as in `"test"`.
        class_names: List of strings, or `None`.
        seed: Int, for every random choice: subsets, projections, the classifier of CAS.
        cache_dir: Path where features of real images are kept; `None` for kgen's cache.
        progress: Bool, show progress bars.

    Raises:
        ValueError: The extractor does not take such images, `train` has another shape, or
            a weights file is not the one it should be.

    Example:

    >>> reference = kgen.evaluation.Reference(data.test, data.train)
    >>> reference.measure(model.generate(10_000))["metrics"]["FD-lenet128"]["value"]
    """

    def __init__(
        self,
        test,
        train=None,
        features="auto",
        *,
        split="test",
        class_names=None,
        seed=0,
        cache_dir=None,
        progress=False,
    ):
        self.test_split = test if isinstance(test, Split) else Split(np.asarray(test))
        if train is not None and not isinstance(train, Split):
            train = Split(np.asarray(train))
        self.train_split = train
        self.image_shape = self.test_split.image_shape
        if train is not None and train.image_shape != self.image_shape:
            raise ValueError(
                f"The training images must have the reference's shape {self.image_shape}. "
                f"Received: {train.image_shape}"
            )
        self.extractor = extractors.get(features, self.image_shape)
        self.split = split
        self.class_names = class_names
        self.seed = check_seed(seed)
        self.cache_dir = cache_dir
        self.progress = progress

    @functools.cached_property
    def test(self):
        """The held-out images, with features."""
        return self._sample(self.test_split, MAX_TEST)

    @functools.cached_property
    def train(self):
        """The training images in a random order, with features; or `None`."""
        return None if self.train_split is None else self._sample(self.train_split, MAX_TRAIN)

    @property
    def train_reference(self):
        """As many training images as there are held-out ones."""
        return None if self.train is None else self.train[: len(self.test)]

    def floor_sample(self, n):
        """`n` training images that are not in `train_reference`, or as many as there are."""
        if self.train is None:
            return None
        sample = self.train[len(self.test) : len(self.test) + n]
        return sample if len(sample) >= 10 else None

    def _sample(self, split, limit):
        order = np.random.default_rng(self.seed).permutation(len(split))
        images, labels = split.images, split.labels
        if len(split) > limit:  # in their own order, in which a memory map is read fast
            chosen = np.sort(order[:limit])
            images, order = images[chosen], np.searchsorted(chosen, order[:limit])
            labels = None if labels is None else labels[chosen]
        found = extractors.extract(
            self.extractor, images, cache_dir=self.cache_dir, progress=self.progress
        )
        return _Sample(images, labels, found)[order]

    def labels_like(self, n, seed=0):
        """`n` labels in a random order, as frequent as in the reference."""
        order = np.random.default_rng(seed).permutation(self.test_split.labels)
        return np.resize(order, n)

    def measure(
        self,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        metrics: Sequence[str] | None = None,
        *,
        floor: bool = True,
        force: bool = False,
    ) -> dict[str, Any]:
        """Measures generated images.

        Args:
            images: uint8 array `[N, H, W, C]`.
            labels: Int array `[N]`, the classes they were drawn for, or `None`.
            metrics: Sequence of names in `METRICS`, or `None` for all. What cannot be had of such
                images, or of so few, is left out.
            floor: Bool, also compute the real-against-real values and those against
                training images, where there are any.
            force: Bool, compute a Fréchet distance of fewer images than features.

        Returns:
            Dict for JSON: `"features"`, `"reference"`, `"train_reference"`,
            `"floor_sample"`, `"samples"` (`{"n": N}`), `"metrics"`: title to a dict of
            `value` (against the held-out images), `sd`, `train`, `gap` (`value - train`),
            `floor`, `floor_sd`, `better` and `meaning`; `"left_out"`, title to the reason
            why a metric cannot be had; with a classifier that knows the reference's classes
            `"classes"`, the share of each; `"warnings"`, a list of strings; and `"seconds"`.

        Raises:
            ValueError: The images have another shape than the reference, a metric is
                unknown, or none of them can be had.
        """
        clock = time.perf_counter()
        split = Split(np.asarray(images), labels)
        if split.image_shape != self.image_shape:
            raise ValueError(
                f"The generated images must have the reference's shape {self.image_shape}. "
                f"Received: {split.image_shape}"
            )
        left_out = self.left_out(len(split), split.labels, metrics, force)
        wanted = self.check(len(split), split.labels, metrics, force)
        if floor or "authenticity" in wanted:
            self.train  # noqa: B018 (so that the clock tells features from metrics)
        found = extractors.extract(
            self.extractor, split.images, cache=False, progress=self.progress
        )
        sample = _Sample(split.images, split.labels, found)
        test = self.test
        seconds = {"features": time.perf_counter() - clock}
        clock = time.perf_counter()

        values = self._values(sample, test, wanted)
        train_values, floor_values = {}, {}
        train_reference = self.train_reference if floor else None
        real = self.floor_sample(len(sample)) if floor else None
        if train_reference is not None:
            both = [name for name in wanted if METRICS[name].against_train]
            train_values = self._values(sample, train_reference, both)
        if real is not None:
            floor_values = self._values(real, test, [n for n in wanted if n not in _OF_TEST])
        if floor:
            of_test = [name for name in wanted if name in _OF_TEST]
            floor_values |= self._values(test[: len(sample)], test, of_test)
        seconds["metrics"] = time.perf_counter() - clock

        table = {}
        for name in wanted:
            metric, (value, sd) = METRICS[name], values[name]
            against_train = train_values.get(name, (None, None))[0]
            floor_value, floor_sd = floor_values.get(name, (None, None))
            table[self.title(name)] = {
                "value": value,
                "sd": sd,
                "train": against_train,
                "gap": None if against_train is None else value - against_train,
                "floor": floor_value,
                "floor_sd": floor_sd,
                "better": metric.better,
                "meaning": metric.meaning,
            }
        extractor = self.extractor
        report = {
            "features": {
                "name": extractor.name,
                "sha256": extractor.sha256,
                "dim": extractor.dim,
            },
            "samples": {"n": len(sample)},
            "reference": {"split": self.split, "n": len(test)},
            "train_reference": _about("train", train_reference),
            "floor_sample": _about("train", real),
            "metrics": table,
            "left_out": {self.title(name): reason for name, reason in left_out.items()},
        }
        classes = self._classes(sample)
        if classes is not None:
            report["classes"] = classes
        report["warnings"] = self._warnings(sample, values, floor_values, classes)
        report["seconds"] = {name: round(value, 2) for name, value in seconds.items()}
        return report

    def title(self, name):
        """What a metric is called here: `"FD-lenet128"` for `"fd"`."""
        return METRICS[name].title.format(self.extractor.name)

    def check(self, n, labels=None, metrics=None, force=False):
        """Names of the metrics that `measure` computes of `n` images.

        A `ValueError` where one is unknown, or some are wanted and none of them can be had.
        """
        left_out = self.left_out(n, labels, metrics, force)
        wanted = _named(metrics)
        if wanted and len(left_out) == len(wanted):
            reasons = (f"The metric '{name}' {reason}." for name, reason in left_out.items())
            raise ValueError(" ".join(dict.fromkeys(reasons)))
        return [name for name in wanted if name not in left_out]

    def left_out(self, n, labels=None, metrics=None, force=False):
        """Dict of the names of metrics that cannot be had of `n` images, to the reason why."""
        missing = {}
        if labels is None or self.test_split.labels is None:
            missing["labels"] = "needs labels of the generated images and of the reference"
        if self.extractor.num_classes is None:
            missing["classifier"] = (
                f"needs an extractor with classes; {self.extractor.name} has none"
            )
        if self.train_split is None:
            missing["train"] = "needs the training images"
        elif len(self.train_split) < 2:
            missing["train"] = "needs at least 2 training images. Received: 1"
        found = {}
        for name in _named(metrics):
            metric, real = METRICS[name], len(self.test_split)
            reasons = [missing[need] for need in metric.needs if need in missing]
            if n < metric.generated:
                reasons.append(
                    f"needs at least {metric.generated} generated images. Received: {n}. Draw more"
                )
            if real < metric.real:
                reasons.append(
                    f"needs at least {metric.real} real images. Received: {real} in the "
                    f"{self.split} split. Hold out more"
                )
            if name == "fd" and n < self.extractor.dim and not force:
                reasons.append(
                    f"of {self.extractor.dim} features needs at least {self.extractor.dim} images. "
                    f"Received: {n}. Draw more, or force it"
                )
            if name in _OF_CLASSES and not reasons and not self.knows_classes:
                reasons.append(
                    f"needs an extractor that knows the reference's classes; {self.extractor.name} "
                    f"gets {self._accuracy:.0%} of them right"
                )
            if reasons:
                found[name] = reasons[0]
        return found

    def _values(self, sample, real, wanted):
        """Dict of metric name to `(value, standard deviation or None)`, without those that need
        more images.
        """
        values = {}
        wanted = [
            name
            for name in wanted
            if len(sample) >= METRICS[name].generated and len(real) >= METRICS[name].real
        ]
        if "fd" in wanted:
            values["fd"] = metrics.frechet_distance(sample.features, real.features), None
        if "kd" in wanted:
            values["kd"] = metrics.kernel_distance(sample.features, real.features, seed=self.seed)
        if "mind" in wanted:
            values["mind"] = metrics.mind(sample.features, real.features, seed=self.seed), None
        if set(wanted) & set(_NEIGHBOURS):
            found = metrics.precision_recall_density_coverage(real.features, sample.features)
            values |= {name: (found[name], None) for name in _NEIGHBOURS if name in wanted}
        if "is" in wanted:
            values["is"] = metrics.inception_score(self.extractor.probabilities(sample.features))
        if "label_accuracy" in wanted:
            values["label_accuracy"] = self._label_accuracy(sample), None
        if "class_coverage" in wanted:
            values["class_coverage"] = self._class_coverage(sample, real), None
        if "cas" in wanted:
            score = classifiers.classification_accuracy_score(
                sample.images, sample.labels, real.images, real.labels, seed=self.seed
            )
            values["cas"] = score, None
        if "authenticity" in wanted:
            score = metrics.authenticity(self.train.features, sample.features)
            values["authenticity"] = score, None
        return {name: tuple(map(_plain, value)) for name, value in values.items()}

    # What the extractor's classifier sees --------------------------------------------

    @functools.cached_property
    def _accuracy(self):
        """Share of the reference's labels that the extractor's classifier gets right."""
        if self.extractor.num_classes is None or self.test_split.labels is None:
            return 0.0
        return self._label_accuracy(self.test)

    @property
    def knows_classes(self):
        """Whether the extractor's classes are those of the reference."""
        return self._accuracy > 0.5

    def see(self, images):
        """int64 `[N]`, the class that the extractor's classifier sees in each image."""
        return self._seen(extractors.extract(self.extractor, images, cache=False))

    def _label_accuracy(self, sample):
        return float(np.mean(self._seen(sample.features) == sample.labels))

    def _seen(self, found):
        return np.argmax(self.extractor.probabilities(found), axis=-1)

    def _classes(self, sample):
        """Share of each class among the real and the generated images, as the classifier sees."""
        if not self.knows_classes:
            return None
        count = self.extractor.num_classes
        names = list(self.class_names or [])
        names += map(str, range(len(names), count))  # the data may have fewer classes
        real, generated = (
            np.bincount(self._seen(s.features), minlength=count) / len(s)
            for s in (self.test, sample)
        )
        return [
            {"class": i, "name": names[i], "real": float(r), "generated": float(g)}
            for i, (r, g) in enumerate(zip(real, generated, strict=True))
        ]

    def _class_coverage(self, sample, real):
        count = self.extractor.num_classes
        shares, theirs = (
            np.bincount(self._seen(s.features), minlength=count) / len(s) for s in (sample, real)
        )
        there = theirs > 0
        return float(np.mean(shares[there] >= theirs[there] / _LOST))

    def _warnings(self, sample, values, floors, classes):
        found = []
        few = max(FEW, 10 * self.extractor.dim)
        n = min(len(sample), len(self.test))
        if "fd" in values and n < few:
            found.append(
                f"few images: {len(sample)} generated and {len(self.test)} real ones make "
                f"{self.title('fd')} too high; under {few} compare it with its floor and at the "
                "same counts only, or use the kernel distance."
            )
        if "authenticity" in floors:
            value, floor = values["authenticity"][0], floors["authenticity"][0]
            if value < 0.5 * floor:
                found.append(
                    f"memorisation: {1 - value:.0%} of the generated images are near-copies of "
                    f"training images; of held-out real images {1 - floor:.0%} are. Look at the "
                    "nearest neighbours, train shorter or on more data."
                )
        if "recall" in floors:
            recall, floor = values["recall"][0], floors["recall"][0]
            if recall < 0.25 * floor:
                found.append(
                    f"little variety: the generated images reach {recall:.0%} of the real ones "
                    f"(recall); other real images reach {floor:.0%}. The model has collapsed to "
                    "few modes, or draws images unlike all real ones."
                )
        if "label_accuracy" in floors and "label_accuracy" in values:
            value, floor = values["label_accuracy"][0], floors["label_accuracy"][0]
            if value < 0.5 * floor:
                found.append(
                    f"wrong classes: the classifier sees {value:.0%} of the generated images as "
                    f"the class they were drawn for, and {floor:.0%} of the real ones: the labels "
                    "are wrong, or the images too poor to tell."
                )
        lost = [
            c for c in classes or () if c["real"] * n >= 20 and c["generated"] < c["real"] / _LOST
        ]
        if lost:
            said = ", ".join(
                f"{c['name']} ({c['generated']:.1%} of the generated, {c['real']:.1%} of the real)"
                for c in lost[:5]
            )
            found.append(f"lost classes: the model hardly draws {said}.")
        return found


def measure(
    images: np.ndarray,
    test: Split | np.ndarray,
    train: Split | np.ndarray | None = None,
    labels: np.ndarray | None = None,
    *,
    metrics: Sequence[str] | None = None,
    force: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Measures generated images against real ones, without a model.

    The arguments are those of `Reference` and of `Reference.measure`, and so is the dict that
    it returns.

    Example:

    >>> found = kgen.evaluation.measure(images, data.test, data.train)
    >>> found["metrics"]["FD-lenet128"]
    """
    return Reference(test, train, **options).measure(images, labels, metrics, force=force)


def _named(metrics):
    """Names of metrics, all where there are none given; a `ValueError` for one that is unknown."""
    names = list(METRICS if metrics is None else metrics)
    for name in names:
        if name not in METRICS:
            raise ValueError(unknown_name("metric", str(name), METRICS))
    return names


def _about(split, sample):
    return None if sample is None else {"split": split, "n": len(sample)}


def _plain(value):
    return None if value is None else float(value)
