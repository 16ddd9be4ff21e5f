"""This module is now `prunedlora.training.callback`; the old name will go with the next release."""

from prunedlora._lazy import moved

__getattr__ = moved(__name__, "prunedlora.training.callback")
