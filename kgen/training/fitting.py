"""What `fit` checks and does beside Keras's own."""

import warnings

import keras

from kgen.data.batches import Batches

#: Of fewer images than this `fit` warns.
FEW = 100


def warn_of_few(x):
    """Says where there are too few images to train on to learn from."""
    if isinstance(x, Batches) and len(x.split) < FEW:
        count = "1 image" if len(x.split) == 1 else f"{len(x.split)} images"
        warnings.warn(
            f"Training on {count}: of so few a model learns no more than to repeat them. Give it "
            "hundreds, or horizontal_flip=True (--horizontal-flip), which doubles them, and mind "
            f"that an epoch of batches of {x.batch_size} is {len(x)} step{'s' * (len(x) > 1)}.",
            stacklevel=3,
        )


def pair(x, y=None, sample_weight=None):
    """Images and labels, of which there are no weights."""
    without_weights(sample_weight=sample_weight)
    return x, y


def without_weights(**weights):
    for name, value in weights.items():
        if value is not None:
            raise ValueError(
                f"{name} must be None: the losses here are no sums over rows that could be "
                "weighted (free bits, batch statistics, two players). Show what should count "
                f"more more often. Received: {name} of type {type(value).__name__}"
            )


def check_monitors(model, callbacks):
    """Refuses callbacks that wait for a loss which the model does not log."""
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        # `ModelCheckpoint` looks at it for the best one alone.
        waits = getattr(callback, "save_best_only", True)
        if monitor in ("loss", "val_loss") and "loss" not in model.metric_names and waits:
            raise ValueError(
                f"{type(model).__name__} logs no {monitor}, and the loss of no player says how "
                "good its images are: it can fall while they become worse. Measure images by "
                "kgen.evaluation.EvaluateSamples, which keeps the best model by best='fd', and "
                f"give {type(callback).__name__} after it, with what it logs as monitor, such "
                "as 'FD-lenet128', and mode='min'. Logged are also: "
                f"{', '.join(model.metric_names)}. Received: monitor='{monitor}'"
            )


class Order(keras.callbacks.Callback):
    """Gives every epoch its order by the count of steps that the model keeps.

    So the order is one long sequence, in which a `fit` goes on where the last one ended.
    """

    def __init__(self, batches):
        super().__init__()
        self.batches = batches if isinstance(batches, Batches) and batches.shuffle else None
        self.start = None

    def on_epoch_begin(self, epoch, logs=None):
        if self.batches is None:
            return
        steps = self.model.steps_trained
        if self.start is None:  # here and not earlier, for a callback may have restored the model
            self.start = steps
        # With steps_per_epoch an iterator serves several epochs, and must find things in place.
        length = len(self.batches)
        self.batches.go_to(self.start + (steps - self.start) // length * length)


class Diagnosis(keras.callbacks.Callback):
    """Warns of what `ImageGenerator.diagnose` finds, when it begins."""

    def on_train_begin(self, logs=None):
        self.found = set()
        self._warn("Before the first step", self.model.diagnose_before())

    def on_epoch_end(self, epoch, logs=None):
        self._warn(f"Epoch {epoch + 1}", self.model.diagnose(logs))

    def _warn(self, when, texts):
        texts = {text.partition(":")[0]: text for text in texts}
        for name in texts.keys() - self.found:
            warnings.warn(f"{when}: {texts[name]}", stacklevel=3)
        self.found = set(texts)
