"""Export of image generators: a folder that runs without kgen, and the proof that it does.

The names below are loaded when first used: `export.verify` and `export.load` must work where
neither Keras nor TensorFlow's Python can be imported, `export.export` needs both.
"""

import importlib

_NAMES = {
    "Artifact": "export.artifact",
    "ExportError": "export.errors",
    "VerificationError": "export.errors",
    "deploy": "export.deployment",
    "export": "export.exporter",
    "generate_dataset": "export.generation",
    "inspect": "export.inspection",
    "load": "export.artifact",
    "verify": "export.verification",
}

__all__ = [
    "Artifact",
    "ExportError",
    "VerificationError",
    "deploy",
    "export",
    "generate_dataset",
    "inspect",
    "load",
    "verify",
]


def __getattr__(name):
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'export' has no attribute '{name}'")


def __dir__():
    return sorted(__all__)
