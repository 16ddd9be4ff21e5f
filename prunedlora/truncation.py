"""Now `prunedlora.linalg.truncation`; this old name will go with the next release."""

from prunedlora._lazy import moved

__getattr__ = moved(
    __name__, "prunedlora.linalg.truncation", "prunedlora.linalg.weighted_truncation"
)
