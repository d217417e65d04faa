"""`EvaluateSamples`: metrics of what the model draws, while it trains."""

import contextlib
import json
import pathlib
import warnings

import keras

from kgen import files
from kgen.checks import check_int, check_seed, unknown_name
from kgen.evaluation import translation
from kgen.evaluation.reference import METRICS, Reference
from kgen.training.checkpoints import save_model


class EvaluateSamples(keras.callbacks.Callback):
    """Draws images every few epochs, measures them, and logs the figures.

    The figures go into the epoch's logs as `FD-lenet128` and so on, where the progress
    bar, `History`, `metrics.csv`, TensorBoard and callbacks that come later find them; other
    epochs have none. The images are drawn from the same seeds each time, so figures differ by
    the weights alone.

    Args:
        reference: `Reference`, or a `kgen.data.Split` of held-out images. Use validation
            images here: what chooses a model cannot judge it.
        every: Int, epochs between evaluations.
        num_samples: Int, how many images to draw; a translator translates what there is.
        metrics: Sequence of names in `kgen.evaluation.METRICS`. What so few images do not give is
            left out, with a warning. `None` for `"fd"`, `"kd"`, `"precision"`, `"recall"`, and
            where the extractor's classifier knows the classes `"class_coverage"`; and `best`.
        seed: Int, for the images.
        best: Name of one of the metrics; the model is kept whenever it improves.
        path: Path of the `.keras` file of the best model. Beside it, at
            `<path>.json`, stands what it reached, so that a resumed run keeps the better one.
        batch_size: Int, images at a time.

    Raises:
        ValueError: A metric is unknown, none can be had of this reference, or not `best`; only
            one of `best` and `path` is given; a number is none.

    Example:

    >>> evaluation = kgen.evaluation.EvaluateSamples(
    ...     data.validation, every=5, best="fd", path="best.keras"
    ... )
    >>> model.fit(data.train, epochs=50, callbacks=[evaluation])
    """

    def __init__(
        self,
        reference,
        every=1,
        num_samples=2048,
        metrics=None,
        seed=0,
        best=None,
        path=None,
        batch_size=64,
    ):
        super().__init__()
        if (best is None) != (path is None):
            raise ValueError(f"best and path go together. Received: best={best}, path={path}")
        if path is not None and pathlib.Path(path).suffix != ".keras":
            raise ValueError(f"path must be that of a .keras file. Received: path={path}")
        self._chooses = metrics is None
        if metrics is None:
            usual = ("fd", "kd", "precision", "recall")
            metrics = usual if best in (*usual, None) or best not in METRICS else (*usual, best)
        metrics = tuple(metrics)
        choices = [name for name in metrics if name in METRICS and METRICS[name].better]
        if best is not None and best not in choices:
            raise ValueError(unknown_name("metric to choose the best by", str(best), choices))
        if not isinstance(reference, Reference):
            reference = Reference(reference, split="validation")
        self.reference = reference
        self.every = check_int(1, every=every)
        self.num_samples = check_int(1, num_samples=num_samples)
        self.metrics = metrics
        self.seed = check_seed(seed)
        self.best = best
        self.path = None if path is None else pathlib.Path(path)
        self.batch_size = check_int(1, batch_size=batch_size)

    def prepare(self, model):
        """Finds which metrics can be had of what `model` draws; `ValueError` where none can.

        Where there is one real image, which gives no metric, training goes on without.
        """
        self.labels = None
        if translation.is_translator(model):
            self.num_samples = len(self.reference.test_split)
        if model.num_classes is not None:
            self.labels = self.reference.labels_like(self.num_samples, self.seed)
        if self._chooses and "class_coverage" not in self.metrics and self.reference.knows_classes:
            self.metrics += ("class_coverage",)
        self.left_out = self.reference.left_out(self.num_samples, self.labels, self.metrics)
        if self.best in self.left_out:
            raise ValueError(
                f"The model cannot be chosen by '{self.best}', which {self.left_out[self.best]}."
            )
        if len(self.reference.test_split) > 1:
            self.reference.check(self.num_samples, self.labels, self.metrics)
        self._wanted = [name for name in self.metrics if name not in self.left_out]

    def on_train_begin(self, logs=None):
        self.prepare(self.model)
        self._begun = False
        for name, reason in self.left_out.items():
            warnings.warn(f"Left out: {self.reference.title(name)}: {reason}.", stacklevel=2)

    def on_epoch_begin(self, epoch, logs=None):
        if self._begun:
            return
        self._begun, self._record = True, None
        if self.best is not None and epoch:  # a run goes on: with what it had reached
            with contextlib.suppress(FileNotFoundError):
                self._record = json.loads(self._record_path.read_text())["value"]

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every or not self._wanted:
            return
        run = {"batch_size": self.batch_size, "progress": False}
        if translation.is_translator(self.model):
            inputs = self.model.inputs_of(self.reference.test_split, seed=self.seed)
            images = self.model.translate(inputs, self.seed, **run)
        else:
            images = self.model.generate(self.num_samples, self.labels, self.seed, **run)
        found = self.reference.measure(images, self.labels, self._wanted, floor=False)
        values = {title: entry["value"] for title, entry in found["metrics"].items()}
        logs.update(values)
        if self.best is not None:
            self._keep(epoch + 1, values[self.reference.title(self.best)])

    @property
    def _record_path(self):
        return self.path.with_name(f"{self.path.name}.json")

    def _keep(self, epoch, value):
        sign = 1 if METRICS[self.best].better == "lower" else -1
        if self._record is not None and sign * value >= sign * self._record:
            return
        self._record = value
        save_model(self.model, self.path)
        record = {"metric": self.reference.title(self.best), "value": value, "epoch": epoch}
        files.write_text(self._record_path, json.dumps(record, indent=2) + "\n")
