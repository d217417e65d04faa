"""The training step on TensorFlow: a gradient tape, `tf.function`, `tf.distribute`."""

import contextlib
import functools
import itertools
import json
import os

import keras
import tensorflow as tf

from kgen.training._parts import Part, check_devices, gradient_norm, penalty


class BackendStep:
    """Keras's `train_step` and `test_step` on TensorFlow."""

    # At the end of a dataset of unknown length Keras asks for a batch that is not there.
    # What does not wait for it, such as a counter, would be done all the same.

    def train_step(self, data):
        with tf.control_dependencies(_tensors(data)):
            part = _part(data)
            return self._train(part, _minimizer(part.share))

    def test_step(self, data):
        with tf.control_dependencies(_tensors(data)):
            return self._test(_part(data))

    def predict_step(self, data):
        return self(*self._inputs(data))

    def make_train_function(self, force=False):
        if self._replicas() == 1:
            super().make_train_function(force)
        elif self.train_function is None or force:
            self.train_function = self._on_replicas(self.train_step)

    def make_test_function(self, force=False):
        if self._replicas() == 1:
            super().make_test_function(force)
        elif self.test_function is None or force:
            self.test_function = self._on_replicas(self.test_step)

    def _keeping_state(self):
        return contextlib.nullcontext()  # variables stay where they are

    def _replicas(self):
        """How many devices share a batch; a `ValueError` where they do not share it as ours do."""
        strategy = self.distribute_strategy
        if strategy.num_replicas_in_sync > 1 and not hasattr(strategy, "shares_rows"):
            raise ValueError(
                "Under a tf.distribute strategy of your own the devices would sum their gradients "
                "and draw the same noise. Build, compile and train the model inside of "
                "kgen.training.distribution.data_parallel(), which is right on any number of "
                f"devices and hosts. Received: {type(strategy).__name__} with "
                f"{strategy.num_replicas_in_sync} replicas"
            )
        return strategy.num_replicas_in_sync

    def _on_replicas(self, step):
        """What Keras calls; its own fails on replicas when `steps_per_execution` is over 1."""
        strategy = self.distribute_strategy
        for layer in self._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True  # its statistics are those of the whole batch

        def one_step(data):
            logs = strategy.run(step, args=(data,))
            return {k: strategy.reduce("MEAN", v, axis=None) for k, v in logs.items()}

        if not self.run_eagerly:
            one_step = tf.function(one_step, reduce_retracing=True, autograph=False)

        def steps(iterator):
            logs = one_step(next(iterator))
            for data in itertools.islice(iterator, self.steps_per_execution - 1):
                logs = one_step(data)
            return logs

        return steps

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Nothing: a model of the zoo is built, and Keras's look at the data fails on hosts."""

    def _place(self, batches):
        return batches  # the strategy shares out every batch, see `_sharing`

    def _resolve_jit(self):
        """XLA pays on a GPU; on the CPU it made a DCGAN step 1.8 times slower."""
        return bool(tf.config.list_physical_devices("GPU"))


def _minimizer(share):
    def minimize(objective, optimizer, variables):
        if not variables:  # all are frozen
            return {**objective()[1], "gradient_norm": gradient_norm([])}
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([v.value for v in variables])
            loss, logs = objective()
            loss = loss + penalty(variables)
            # The loss is a mean over this replica's rows; summed over the replicas, the
            # weighted losses are the mean over the whole batch.
            loss = optimizer.scale_loss(loss if share is None else loss * share)
        gradients = tape.gradient(loss, [v.value for v in variables])
        # A look-up's gradient comes in parts, one per place; Keras's optimizers would square
        # each part, where Adam wants the square of their sum, as on JAX.
        gradients = [
            tf.convert_to_tensor(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients
        ]
        if share is not None:
            # Summed here, not in `apply`, which would clip, and look for overflow in, what
            # each replica has before it sums.
            gradients = _sum_over_replicas(gradients)
            getattr(optimizer, "inner_optimizer", optimizer)._all_reduce_sum_gradients = list
        optimizer.apply(gradients, variables)
        return {**logs, "gradient_norm": gradient_norm(gradients)}

    return minimize


def _sum_over_replicas(gradients):
    present = [g for g in gradients if g is not None]
    context = tf.distribute.get_replica_context()
    summed = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, present))
    return [None if g is None else next(summed) for g in gradients]


def batch_moments(x):
    """Mean and variance over the rows of the whole batch, on any number of devices: `[B, ...]` to
    two tensors `[...]`.

    An objective that takes more than means of its rows needs it: under `tf.distribute`
    `ops.mean(x, axis=0)` sees one device's part of the batch.
    """
    several = tf.distribute.get_strategy().num_replicas_in_sync > 1
    return keras.ops.moments(x, axes=[0], synchronized=several)


def whole_batch(x):
    """The rows of the whole batch, on every device, in the order of the devices, from a device's
    own `[B, ...]`. A batch of fewer rows than devices is there many times.
    """
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return x
    return tf.distribute.get_replica_context().all_gather(x, axis=0)


def input_gradient(function, x):
    """Gradient of `sum(function(x))` with respect to `x`, of its shape, itself differentiable."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x)


def compile_function(model, function, jit_compile=False):
    """A compiled version of a pure function of tensors that reads the variables of `model`.

    It is traced once per shape; `jit_compile` is whether by XLA.
    """
    return tf.function(function, jit_compile=jit_compile, autograph=False)


# Several devices ----------------------------------------------------------------------


def _tensors(data):
    return [part for part in tf.nest.flatten(data) if part is not None]


def _part(data):
    """The replica's part of a batch, from what `_sharing` or a single device's data gives."""
    images, labels, _ = keras.utils.unpack_x_y_sample_weight(data)
    if isinstance(images, tuple):
        images, rows, weight, share = images
        return Part(images, labels, rows, weight, share)
    n = tf.shape(images)[0]
    return Part(images, labels, tf.range(n), n, None)


def _sharing(strategy_class):
    """A strategy that shares out the rows of every batch, the same on every host.

    `tf.distribute` itself gives other batches to other hosts, tells no device which rows
    it has, and leaves devices without any row when the last batch of an epoch is small.
    """

    class Sharing(strategy_class):
        shares_rows = True

        def experimental_distribute_dataset(self, dataset, options=None):
            def local_parts(context):
                first = context.input_pipeline_id
                local = self.num_replicas_in_sync // context.num_input_pipelines
                replicas = tf.range(first * local, (first + 1) * local)
                return dataset.flat_map(
                    lambda *batch: tf.data.Dataset.from_tensor_slices(replicas).map(
                        lambda i: _rows_of_replica(batch, i, self.num_replicas_in_sync)
                    )
                )

            return self.distribute_datasets_from_function(local_parts)

    Sharing.__name__ = strategy_class.__name__
    return Sharing


def _rows_of_replica(batch, i, replicas):
    """Replica `i`'s part of a batch `(images,)` or `(images, labels)`."""
    images, *labels = batch
    n = tf.shape(images)[0]
    begin = i * (n // replicas) + tf.minimum(i, n % replicas)
    size = n // replicas + tf.cast(i < n % replicas, "int32")
    # A batch too small to be shared is computed by every replica, each counting for a part.
    begin, size = tf.cond(n < replicas, lambda: (0, n), lambda: (begin, size))
    share = tf.where(n < replicas, 1 / replicas, tf.cast(size / n, "float32"))
    rows = tf.range(begin, begin + size)
    part = (images[begin : begin + size], rows, share * tf.cast(n, "float32"), share)
    return (part, *(label[begin : begin + size] for label in labels))


@contextlib.contextmanager
def devices_scope(devices, hosts):
    """See `kgen.training.distribution.data_parallel`."""
    if hosts:
        if devices != "all":
            raise ValueError(
                "On TensorFlow hosts=True takes all devices of every host; hide the others with "
                f"CUDA_VISIBLE_DEVICES. Received: devices={devices!r}"
            )
        if not json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster"):
            raise ValueError(
                "hosts=True needs the environment variable TF_CONFIG on every host, such as "
                '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", '
                '"index": 0}}. It is not set.'
            )
        try:
            strategy = _many_hosts()
        except RuntimeError as error:
            raise RuntimeError(
                "data_parallel(hosts=True) must come before anything else that computes with "
                f"TensorFlow: before a model is built. TensorFlow says: {error}"
            ) from error
    else:
        kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
        names = [device.name for device in tf.config.list_logical_devices(kind)]
        strategy = _one_host(tuple(names[: check_devices(devices, len(names), kind)]))
    with strategy.scope():
        yield


# Two strategies over the same devices number their collective operations alike, and
# TensorFlow then takes one's for the other's: so there is one for good.


@functools.cache
def _one_host(devices):
    return _sharing(tf.distribute.MirroredStrategy)(devices)


@functools.cache
def _many_hosts():
    return _sharing(tf.distribute.MultiWorkerMirroredStrategy)()


def host_index():
    """See `kgen.training.distribution.is_main_host`."""
    resolver = tf.distribute.get_strategy().cluster_resolver
    return (resolver.task_id or 0) if resolver else 0
