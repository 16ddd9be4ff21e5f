"""Now `prunedlora.linalg.elimination`; this old name will go with the next release."""

from prunedlora._lazy import moved

__getattr__ = moved(__name__, "prunedlora.linalg.elimination")
