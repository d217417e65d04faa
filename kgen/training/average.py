"""Exponential moving averages of weights."""

from keras import ops


def update_average(average, network, decay, training_steps):
    """Moves averaged weights, and statistics of batch normalisation, towards the trained ones.

    `training_steps` (int32, from 1) have been taken. The decay, 0 to 1, starts low, so that the
    initial weights are soon forgotten.
    """
    step = ops.cast(training_steps, "float32")
    decay = ops.minimum(decay, (1 + step) / (10 + step))
    for ours, theirs in zip(average.variables, network.variables, strict=True):
        ours.assign(theirs + decay * (ours - theirs))


class AveragedWeights:
    """Gives a model a network and its twin of averaged weights, `network` and `ema_network`.

    With the average the model evaluates, samples and is exported. Mixed in before the model's
    base class, of a model with an argument `ema_decay`, a float from 0 to 1: 0 takes the weights
    as they are trained.
    """

    frozen_networks: tuple[str, ...] = ("ema_network",)

    def _build_networks(self, make):
        """Builds both, alike: `make` gives a network, with its weights, of a name."""
        with self.dtype_policy_scope():
            self.network, self.ema_network = make("network"), make("ema_network")
        self._freeze_networks()
        self.ema_network.set_weights(self.network.get_weights())
        self.built = True

    @property
    def final_network(self):
        return self.ema_network

    def update(self, batch, minimize):
        logs = super().update(batch, minimize)
        update_average(self.ema_network, self.network, self.ema_decay, self.training_steps)
        return logs
