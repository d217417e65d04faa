"""The zoo's one training step, and the few primitives that differ between backends.

`TrainingStep` is mixed into `ImageGenerator`. A model states only `update(batch,
minimize)`; how a gradient is taken, where it is applied and how state is threaded is
written once per backend, in `_tensorflow.py` and `_jax.py`.
"""

import inspect
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
    from kgen.training._jax import (  # type: ignore[assignment]
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


def check_image_data_format():
    """Refuses Keras's other layout of images, which its layers would take for the channels."""
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "kgen's images have their channels last. Received: image_data_format="
            f"'{keras.config.image_data_format()}', from keras.json or "
            "keras.config.set_image_data_format. Set it to 'channels_last'."
        )


try:
    check_image_data_format()
except ValueError as error:
    raise ImportError(str(error)) from None

__all__ = [
    "Batch",
    "TrainingStep",
    "batch_moments",
    "check_image_data_format",
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
        inputs: uint8 tensor `[B, h, w, c]`, what a translator makes the images of.
    """

    images: Any
    labels: Any
    seeds: Any
    inputs: Any = None


class TrainingStep(BackendStep):
    """Gives a model its `train_step` and `test_step`."""

    def update(self, batch, minimize):
        """One training update. A model with several optimizers overrides it.

        Args:
            batch: `Batch`.
            minimize: Callable `minimize(objective, optimizer, variables)`, where
                `objective` takes no arguments and returns `(loss, logs)`: a float32
                scalar and a dict of float32 scalars. It makes one optimizer step, by the
                gradient of the loss and of the variables' regularizers, and returns the logs, with
                the gradient's length as `gradient_norm`.

        Returns:
            Dict of float32 scalars, one for every name in `metric_names` and in
            `training_metric_names`.
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

    def _get_metrics_result_or_logs(self, logs):
        # What evaluation measures is a part of the metrics. Keras, where names are not all of them,
        # would take the logs of the last step, which on several devices are means of their means.
        found = self.get_metrics_result()
        return {name: found[name] for name in logs}

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
        return self._logged(self.update(batch, minimize), part.weight)

    def _test(self, part):
        self.test_steps.assign(self.test_steps + 1)
        batch = self._batch(part, self.test_steps, stream=2)
        return self._logged(self.test_update(batch), part.weight)

    def _batch(self, part, step, stream):
        from kgen import random

        step_seed = random.fold_in(random.fold_in(self.seed, stream), step)
        # By the row in the whole batch, so that N devices draw what one would.
        seeds = random.fold_in(keras.ops.expand_dims(step_seed, 0), part.rows)
        labels = None
        if self.num_classes is not None:
            labels = keras.ops.cast(keras.ops.reshape(part.labels, (-1,)), "int32")
        return Batch(part.images, labels, seeds)

    def _logged(self, logs, weight):
        self._check_no_added_losses()
        trackers = [tracker for tracker in self.trackers if tracker.name in logs]
        for tracker in trackers:
            tracker.update_state(logs[tracker.name], sample_weight=weight)
        return {tracker.name: tracker.result() for tracker in trackers}

    def _check_no_added_losses(self):
        """Refuses `add_loss`, which a model with several calls and players could not add up."""
        for layer in self._flatten_layers():
            if layer._losses or layer._loss_ids:
                raise ValueError(
                    f"add_loss and activity regularizers have no effect in {type(self).__name__}: "
                    "return what is to be minimised from objective, or regularize weights. "
                    f"Received: a loss that was added by the layer {layer.path or layer.name}"
                )

    def _inputs(self, data):
        """What `predict` hands to `call`: images, or latent vectors, and labels where needed."""
        x, labels, _ = keras.utils.unpack_x_y_sample_weight(data)
        inputs = list(x) if isinstance(x, (tuple, list)) else [x]
        takes = next(iter(inspect.signature(self.call).parameters))
        if self.num_classes is not None:
            inputs += [labels] if len(inputs) == 1 and labels is not None else []
            # A class-conditional prior may stand on an autoencoder that knows no classes.
            endpoints = self.endpoints()
            decoding = endpoints.get("reconstruct" if takes == "images" else "decode")
            if len(inputs) == 1 and decoding is not None and "label" in decoding.inputs:
                raise ValueError(
                    f"{type(self).__name__} is class-conditional: predict((x, labels)), with one "
                    "integer label per row. Received: x alone"
                )
        dtype = keras.backend.standardize_dtype(inputs[0].dtype)
        if takes == "images" and dtype != "uint8":
            raise ValueError(
                f"{type(self).__name__} takes uint8 images, 0 to 255. Received: {dtype}"
            )
        return inputs
