"""The training step on TensorFlow: a gradient tape, `tf.function`, `tf.distribute`."""

import tensorflow as tf


class BackendStep:
    """Keras's `train_step` and `test_step` on TensorFlow."""

    def train_step(self, data):
        return self._train(data, _minimize)

    def test_step(self, data):
        return self._test(data)

    def _replica_id(self):
        return tf.distribute.get_replica_context().replica_id_in_sync_group

    def _resolve_jit(self):
        """XLA pays on a GPU; on the CPU it made a DCGAN step 1.8 times slower."""
        return bool(tf.config.list_physical_devices("GPU"))


def _minimize(objective, optimizer, variables):
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([v.value for v in variables])
        loss, logs = objective()
        # Gradients are summed over the replicas; the loss is a mean over the batch.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        loss = optimizer.scale_loss(loss / replicas)
    optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
    return logs


def input_gradient(function, x):
    """Gradient of `sum(function(x))` with respect to `x`, itself differentiable.

    Args:
        function: Callable that maps `x` to a tensor.
        x: Float tensor.

    Returns:
        Float tensor of `x`'s shape.
    """
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x)


def compile_function(model, function, jit_compile=False):
    """A compiled version of a pure function of tensors that reads the model's variables.

    Args:
        model: The `ImageGenerator` whose variables the function reads.
        function: Callable of tensors.
        jit_compile: Whether to compile with XLA.

    Returns:
        Callable with the same arguments; traced once per shape.
    """
    return tf.function(function, jit_compile=jit_compile, autograph=False)
