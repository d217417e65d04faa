"""Serving of artifacts: the server behind `kgen serve`, and clients of it and of its kind.

The names below are loaded when first used; they need `pip install 'kgen[serve]'`.
"""

import importlib

_NAMES = {
    "Client": "export.serving.client",
    "Limits": "export.serving.service",
    "Server": "export.serving.server",
    "Service": "export.serving.service",
    "ServingError": "export.serving.errors",
    "create_app": "export.serving.app",
}

__all__ = ["Client", "Limits", "Server", "Service", "ServingError", "create_app"]


def __getattr__(name):
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'export.serving' has no attribute '{name}'")


def __dir__():
    return sorted(__all__)
