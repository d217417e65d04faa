"""The two ways an artifact can be refused."""


class ExportError(ValueError):
    """A model could not be exported, or what was written does not equal Keras."""


class VerificationError(ValueError):
    """An artifact is not what its manifest says, or no longer gives its golden outputs."""
