"""How a run ends before its time. Without Keras, so that the command line can tell."""


class RunError(RuntimeError):
    """A run that cannot begin or go on; the message says what to do."""


class NonFiniteError(RunError):
    """A loss or a weight is NaN or infinite."""


class Interrupted(RunError):
    """The run was asked to stop, by the signal `signum`, and did so without loss."""

    def __init__(self, message, signum):
        super().__init__(message)
        self.signum = signum
