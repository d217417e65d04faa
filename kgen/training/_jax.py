"""The training step on JAX: the model's state goes in and out of pure functions."""

import contextlib
import json
import os
import types

import jax
import keras
import numpy as np

from kgen.training._parts import Part, check_devices, gradient_norm, penalty


class BackendStep:
    """Keras's `train_step` and `test_step` on JAX."""

    def train_step(self, state, data):
        variables = (
            self.trainable_variables,
            self.non_trainable_variables,
            self.optimizer.variables,
            self.metrics_variables,
        )
        return _run_stateless(
            variables, state, lambda scope: self._train(_part(data), _minimize_in(scope, self))
        )

    def test_step(self, state, data):
        variables = (
            self.trainable_variables,
            self.non_trainable_variables,
            self.metrics_variables,
        )
        return _run_stateless(variables, state, lambda scope: self._test(_part(data)))

    def predict_step(self, state, data):
        return self.stateless_call(*state, *self._inputs(data))

    def _symbolic_build(self, iterator=None, data_batch=None):
        """Nothing: a model of the zoo is built, and Keras would call it with what it trains on."""

    def _place(self, batches):
        distribution = keras.distribution.distribution()
        if distribution is None:
            return batches
        if isinstance(batches, types.GeneratorType):
            shared = _ForDevices(None, distribution)
            return (shared.share(batch) for batch in batches)
        return _ForDevices(batches, distribution)

    @contextlib.contextmanager
    def _keeping_state(self):
        """Gives a model its state back where its data breaks off.

        Keras takes the state away while it trains or evaluates, and gives it back at the end.
        """
        variables = [*self.variables, *self.metrics_variables]
        if self.optimizer is not None:
            variables += self.optimizer.variables
        before = [(variable, variable.value) for variable in variables]
        try:
            yield
        except BaseException:
            self.jax_state_sync()
            self._jax_state = None
            for variable, value in before:  # of no step at all
                if variable._value is None:
                    variable._value = value
            raise

    def _replicas(self):
        """How many devices share a batch."""
        distribution = keras.distribution.distribution()
        return 1 if distribution is None else distribution.device_mesh.devices.size

    def _resolve_jit(self):
        return True


def _run_stateless(variables, values, function):
    """Runs `function(scope)` on `values`; returns its result and the values after it."""
    mapping = [
        pair for group in zip(variables, values, strict=True) for pair in zip(*group, strict=True)
    ]
    with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
        result = function(scope)
    return result, tuple([scope.get_current_value(v) for v in group] for group in variables)


def _minimize_in(outer, model):
    def minimize(objective, optimizer, variables):
        if not variables:  # all are frozen
            return {**objective()[1], "gradient_norm": gradient_norm([])}
        state = model.variables  # all that a forward pass may read or write

        def compute(values):
            mapping = [(v, outer.get_current_value(v)) for v in state]
            mapping += [(v, outer.get_current_value(v)) for v in optimizer.variables]
            mapping += list(zip(variables, values, strict=True))
            with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as inner:
                loss, logs = objective()
                loss = loss + penalty(variables)
                loss = optimizer.scale_loss(loss)
            return loss, (logs, [inner.get_current_value(v) for v in state])

        values = [outer.get_current_value(v) for v in variables]
        (_, (logs, after)), gradients = jax.value_and_grad(compute, has_aux=True)(values)
        for variable, value in zip(state, after, strict=True):
            outer.add_update((variable, value))
        norm = gradient_norm(gradients)
        slots = [outer.get_current_value(v) for v in optimizer.variables]
        values, slots = optimizer.stateless_apply(slots, gradients, values)
        for variable, value in zip(
            [*variables, *optimizer.variables], [*values, *slots], strict=True
        ):
            outer.add_update((variable, value))
        return {**logs, "gradient_norm": norm}

    return minimize


def batch_moments(x):
    """Mean and variance over the rows of the whole batch, on any number of devices."""
    return keras.ops.moments(x, axes=[0])  # arrays are global


def whole_batch(x):
    """The rows of the whole batch, on every device."""
    return x  # arrays are global


def input_gradient(function, x):
    """Gradient of `sum(function(x))` with respect to `x`, of its shape, itself differentiable."""
    return jax.grad(lambda x: function(x).sum())(x)


def compile_function(model, function, jit_compile=True):
    """A compiled version of a pure function of tensors that reads the variables of `model`.

    It is traced once per shape; `jit_compile` is whether by XLA.
    """

    def stateless(values, *args, **kwargs):
        with keras.StatelessScope(state_mapping=zip(model.variables, values, strict=True)):
            return function(*args, **kwargs)

    stateless = jax.jit(stateless) if jit_compile else stateless
    return lambda *args, **kwargs: stateless([v.value for v in model.variables], *args, **kwargs)


# Several devices ----------------------------------------------------------------------


def _part(data):
    """The whole batch: arrays are global, and the compiler shares out the work."""
    images, labels, _ = keras.utils.unpack_x_y_sample_weight(data)
    if isinstance(images, tuple):
        images, count = images
        n = count.shape[1]
        images, labels = images[:n], None if labels is None else labels[:n]
    n = images.shape[0]
    return Part(images, labels, jax.numpy.arange(n, dtype="int32"), n)


class _ForDevices(keras.utils.PyDataset):
    """Batches as the devices of this host take them.

    Every host is given whole batches, the same ones; it hands on its rows. JAX wants as
    many rows on every device, so a batch is padded, and because shapes must be static, how
    many rows are real goes along as the second side of an array.
    """

    def __init__(self, batches, distribution):
        super().__init__()
        self.batches = batches
        self.devices = distribution.device_mesh.devices.size
        self.hosts = jax.process_count()
        self._iterator = None

    @property
    def num_batches(self):
        if isinstance(self.batches, keras.utils.PyDataset):
            return self.batches.num_batches
        cardinality = int(self.batches.cardinality())
        return cardinality if cardinality >= 0 else None

    def __getitem__(self, index):
        return self.share(self._whole_batch(index))

    def share(self, batch):
        """This host's rows of a whole batch, and how many of all are real."""
        images, *labels = batch
        n = len(images)
        total = -(-n // self.devices) * self.devices
        per_host = total // self.hosts
        rows = np.arange(per_host) + jax.process_index() * per_host
        rows = np.where(rows < n, rows, 0)
        count = np.zeros((self.devices // self.hosts, n), "bool")
        return ((images[rows], count), *(np.asarray(label)[rows] for label in labels))

    def _whole_batch(self, index):
        if isinstance(self.batches, keras.utils.PyDataset):
            return self.batches[index]
        # A `tf.data.Dataset` has no index; Keras reads it in order, from 0 in every epoch.
        if index == 0:
            self._iterator = self.batches.as_numpy_iterator()
        batch = next(self._iterator)
        return batch if isinstance(batch, tuple) else (batch,)

    def on_epoch_begin(self):
        if isinstance(self.batches, keras.utils.PyDataset):
            self.batches.on_epoch_begin()

    def on_epoch_end(self):
        if isinstance(self.batches, keras.utils.PyDataset):
            self.batches.on_epoch_end()


@contextlib.contextmanager
def devices_scope(devices, hosts):
    """See `kgen.training.distribution.data_parallel`."""
    if hosts and not jax.distributed.is_initialized():
        try:
            keras.distribution.initialize(*_hosts_from_environment())
        except (RuntimeError, ValueError) as error:
            raise type(error)(
                "hosts=True must come before anything else that computes with JAX, and needs on "
                "every host the environment variable TF_CONFIG, or KERAS_DISTRIBUTION_JOB_"
                "ADDRESSES, _NUM_PROCESSES and _PROCESS_ID, or a cluster that JAX knows. JAX says: "
                f"{error}"
            ) from error
    local = jax.local_devices()
    count = check_devices(devices, len(local), local[0].platform.upper())
    by_host = {}
    for device in jax.devices():
        by_host.setdefault(device.process_index, []).append(f"{device.platform}:{device.id}")
    names = [name for host in sorted(by_host) for name in by_host[host][:count]]
    with keras.distribution.DataParallel(devices=names, auto_shard_dataset=False).scope():
        yield


def _hosts_from_environment():
    """Addresses, number and index of the hosts from TF_CONFIG; else what JAX finds itself."""
    config = json.loads(os.environ.get("TF_CONFIG") or "{}")
    workers = config.get("cluster", {}).get("worker")
    if not workers or "KERAS_DISTRIBUTION_JOB_ADDRESSES" in os.environ:
        return None, None, None
    return workers[0], len(workers), config.get("task", {}).get("index")


def host_index():
    """See `kgen.training.distribution.is_main_host`."""
    return jax.process_index()
