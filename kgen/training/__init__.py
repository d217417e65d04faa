"""How the zoo trains: one step for every model and backend, runs, callbacks, devices."""

from kgen import lazy

__getattr__, __dir__ = lazy.attach(__name__)
