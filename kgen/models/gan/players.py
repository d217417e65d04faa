"""Two players, each with an optimizer of its own."""

import keras

from kgen.training.schedules import scheduled_optimizer


class Players:
    """Gives a model `compile` with two optimizers, a generator's and a discriminator's.

    Mixed in before the model's base class. The model states `_players()`, the variables of both
    sides that train, calls `_count_step()` at the end of a training step, and its
    `default_optimizer(learning_rate, name)` is told whose it is. `discriminator_steps` are updates
    of the discriminator in a step.
    """

    discriminator_steps = 1

    def _players(self):
        """The variables that the generator's and the discriminator's optimizer train: two lists."""
        raise NotImplementedError(f"{type(self).__name__} must implement _players")

    def _count_step(self):
        # Keras's callbacks read this count, which only MultiOptimizer.apply would advance.
        self.optimizer.iterations.assign(self.training_steps)

    def compile(
        self,
        generator_optimizer=None,
        discriminator_optimizer=None,
        *,
        learning_rate=None,
        schedule=None,
        warmup_steps=None,
        total_steps=None,
        jit_compile="auto",
        steps_per_execution=1,
        run_eagerly=False,
        auto_scale_loss=True,
        **keras_arguments,
    ):
        """Configures training, as `ImageGenerator.compile` does, with two optimizers.

        Args:
            generator_optimizer: A Keras optimizer or its name; `None` for the model's own
                default.
            discriminator_optimizer: Likewise.
            learning_rate, schedule, warmup_steps, total_steps: For the default optimizers. Steps
                are those of training, in each of which a discriminator may make several updates.
            auto_scale_loss: Without effect, because `mixed_float16` is refused.

        Raises:
            ValueError: The optimizers are one and the same, or do not go with
                `learning_rate` or `schedule`, or the dtype policy is `mixed_float16`.
        """
        self._check_keras_arguments(keras_arguments)
        if self.dtype_policy.name == "mixed_float16":
            raise ValueError(
                f"{type(self).__name__} does not train in mixed_float16: its two losses would each "
                "need a loss scale of their own. Received: dtype='mixed_float16'. Use "
                "'mixed_bfloat16'."
            )
        given = (generator_optimizer, discriminator_optimizer)
        rate = {
            "learning_rate": learning_rate,
            "schedule": schedule,
            "warmup_steps": warmup_steps,
            "total_steps": total_steps,
        }
        for name, value in rate.items():
            if value is not None and None not in given:
                raise ValueError(
                    f"{name} goes with the default optimizers; give custom ones their own. "
                    f"Received: {name}={value} and two optimizers"
                )
        players = {"generator": 1, "discriminator": self.discriminator_steps}
        generator_optimizer, discriminator_optimizer = (
            scheduled_optimizer(self, **rate, updates=updates, name=name)
            if optimizer is None
            else keras.optimizers.get(optimizer)
            for optimizer, (name, updates) in zip(given, players.items(), strict=True)
        )
        if generator_optimizer is discriminator_optimizer:
            raise ValueError(
                "The generator and the discriminator need an optimizer each: one optimizer keeps "
                "one set of moments and one count of steps. Received the same object twice."
            )
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        generator, discriminator = self._players()
        self._check_optimizer(generator_optimizer, generator)
        self._check_optimizer(discriminator_optimizer, discriminator)
        # By identity: the paths of a functional model's variables do not name the model.
        mine = {id(variable) for variable in generator}
        both = keras.optimizers.MultiOptimizer(
            lambda variable: (
                generator_optimizer if id(variable) in mine else discriminator_optimizer
            )
        )
        self._compile(both, jit_compile, steps_per_execution, run_eagerly, auto_scale_loss)
        self._compile_arguments["generator_optimizer"] = generator_optimizer
        self._compile_arguments["discriminator_optimizer"] = discriminator_optimizer

    def _optimizers(self):
        return [self.generator_optimizer, self.discriminator_optimizer]
