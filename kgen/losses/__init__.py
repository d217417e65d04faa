"""Losses that models of more than one family share."""

from kgen import lazy

__getattr__, __dir__ = lazy.attach(__name__)
