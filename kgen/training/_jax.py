"""The training step on JAX: the model's state goes in and out of pure functions."""

import jax
import keras


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
            variables, state, lambda scope: self._train(data, _minimize_in(scope, self))
        )

    def test_step(self, state, data):
        variables = (
            self.trainable_variables,
            self.non_trainable_variables,
            self.metrics_variables,
        )
        return _run_stateless(variables, state, lambda scope: self._test(data))

    def _replica_id(self):
        return 0  # arrays are global; the compiler shards them

    def _resolve_jit(self):
        return True


def _run_stateless(variables, values, function):
    """Runs `function(scope)` on `values`; returns its result and the values after it."""
    mapping = [
        pair for group in zip(variables, values, strict=True) for pair in zip(*group, strict=True)
    ]
    with keras.StatelessScope(state_mapping=mapping) as scope:
        result = function(scope)
    return result, tuple([scope.get_current_value(v) for v in group] for group in variables)


def _minimize_in(outer, model):
    def minimize(objective, optimizer, variables):
        state = model.variables  # all that a forward pass may read or write

        def compute(values):
            mapping = [(v, outer.get_current_value(v)) for v in state]
            mapping += [(v, outer.get_current_value(v)) for v in optimizer.variables]
            mapping += list(zip(variables, values, strict=True))
            with keras.StatelessScope(state_mapping=mapping) as inner:
                loss, logs = objective()
                loss = optimizer.scale_loss(loss)
            return loss, (logs, [inner.get_current_value(v) for v in state])

        values = [outer.get_current_value(v) for v in variables]
        (_, (logs, after)), gradients = jax.value_and_grad(compute, has_aux=True)(values)
        for variable, value in zip(state, after, strict=True):
            outer.add_update((variable, value))
        slots = [outer.get_current_value(v) for v in optimizer.variables]
        values, slots = optimizer.stateless_apply(slots, gradients, values)
        for variable, value in zip([*variables, *optimizer.variables], [*values, *slots], strict=True):
            outer.add_update((variable, value))
        return logs

    return minimize


def input_gradient(function, x):
    """Gradient of `sum(function(x))` with respect to `x`, itself differentiable.

    Args:
        function: Callable that maps `x` to a tensor.
        x: Float tensor.

    Returns:
        Float tensor of `x`'s shape.
    """
    return jax.grad(lambda x: function(x).sum())(x)


def compile_function(model, function, jit_compile=True):
    """A compiled version of a pure function of tensors that reads the model's variables.

    Args:
        model: The `ImageGenerator` whose variables the function reads.
        function: Callable of tensors.
        jit_compile: Whether to compile with XLA.

    Returns:
        Callable with the same arguments; traced once per shape.
    """

    def stateless(values, *args, **kwargs):
        with keras.StatelessScope(state_mapping=zip(model.variables, values, strict=True)):
            return function(*args, **kwargs)

    stateless = jax.jit(stateless) if jit_compile else stateless
    return lambda *args, **kwargs: stateless([v.value for v in model.variables], *args, **kwargs)
