"""The zoo's one training step, and the few primitives that differ between backends.

`TrainingStep` is mixed into `ImageGenerator`. A model states only `update(batch,
minimize)`; how a gradient is taken, where it is applied and how state is threaded is
written once per backend, in `_tensorflow.py` and `_jax.py`.
"""

from typing import Any, NamedTuple

import keras

if keras.backend.backend() == "tensorflow":
    from kgen.training._tensorflow import (
        BackendStep,
        batch_moments,
        compile_function,
        devices_scope,
        host_index,
        input_gradient,
        whole_batch,
    )
elif keras.backend.backend() == "jax":
    from kgen.training._jax import (
        BackendStep,
        batch_moments,
        compile_function,
        devices_scope,
        host_index,
        input_gradient,
        whole_batch,
    )
else:
    raise ImportError(
        "kgen runs on Keras's backends 'tensorflow' and 'jax'. Received: KERAS_BACKEND="
        f"'{keras.backend.backend()}'. Set the environment variable KERAS_BACKEND to one of them."
    )

__all__ = [
    "Batch",
    "TrainingStep",
    "batch_moments",
    "compile_function",
    "devices_scope",
    "host_index",
    "input_gradient",
    "whole_batch",
]


class Batch(NamedTuple):
    """What a training or test step works on.

    Args:
        images: uint8 tensor `[B, H, W, C]`.
        labels: int32 tensor `[B]`, or `None` for an unconditional model.
        seeds: int32 tensor `[B]`; all noise of the step is drawn from them with
            `kgen.random`, so that it is the same on every backend and on any number of
            devices.
    """

    images: Any
    labels: Any
    seeds: Any


class TrainingStep(BackendStep):
    """Gives a model its `train_step` and `test_step`."""

    def update(self, batch, minimize):
        """One training update. A model with several optimizers overrides it.

        Args:
            batch: `Batch`.
            minimize: Callable `minimize(objective, optimizer, variables)`, where
                `objective` takes no arguments and returns `(loss, logs)`: a float32
                scalar and a dict of float32 scalars. It makes one optimizer step and
                returns the logs.

        Returns:
            Dict of float32 scalars, one for every name in `metric_names`.
        """
        return minimize(
            lambda: self.objective(batch, training=True), self.optimizer, self.trainable_variables
        )

    def test_update(self, batch):
        """What `evaluate` measures on a batch: the objective's logs, as from `update`."""
        return self.objective(batch, training=False)[1]

    @property
    def metrics(self):
        # Keras would add a tracker of the loss that it was given: none.
        return self.trackers

    def fit(self, x, *, validation_data=None, **kwargs):
        if validation_data is not None:
            validation_data = self._place(validation_data)
        return super().fit(self._place(x), validation_data=validation_data, **kwargs)

    def evaluate(self, x, **kwargs):
        if not kwargs.get("_use_cached_eval_dataset"):  # inside `fit`, which has placed it
            x = self._place(x)
        return super().evaluate(x, **kwargs)

    def _train(self, part, minimize):
        self.training_steps.assign(self.training_steps + 1)
        batch = self._batch(part, self.training_steps, stream=1)
        return self._track(self.update(batch, minimize), part.weight)

    def _test(self, part):
        self.test_steps.assign(self.test_steps + 1)
        batch = self._batch(part, self.test_steps, stream=2)
        return self._track(self.test_update(batch), part.weight)

    def _batch(self, part, step, stream):
        from kgen import random

        step_seed = random.fold_in(random.fold_in(self.seed, stream), step)
        # By the row in the whole batch, so that N devices draw what one would.
        seeds = random.fold_in(keras.ops.expand_dims(step_seed, 0), part.rows)
        labels = None
        if self.num_classes is not None:
            labels = keras.ops.cast(keras.ops.reshape(part.labels, (-1,)), "int32")
        return Batch(part.images, labels, seeds)

    def _track(self, logs, weight):
        for tracker in self.trackers:
            tracker.update_state(logs[tracker.name], sample_weight=weight)
        return {tracker.name: tracker.result() for tracker in self.trackers}
