"""What can go wrong, one exception per kind; every message names the fix."""


class PrunedLoRAError(Exception):
    """Base class of all errors raised on purpose by this package."""


class UnsupportedAdapterError(PrunedLoRAError):
    """The model holds no LoRA layer, or one of a kind that cannot be pruned."""


class ConfigurationError(PrunedLoRAError, ValueError):
    """Settings that contradict each other, the model or the length of training."""


class NonFiniteError(PrunedLoRAError, ArithmeticError):
    """NaN or infinity where a decision would have been based on it."""


class SingularCurvatureError(PrunedLoRAError, ArithmeticError):
    """A curvature matrix that no admissible damping makes invertible."""


class UnsupportedOptimizerError(PrunedLoRAError):
    """An optimiser whose per-parameter state cannot be masked or sliced safely."""


class PruningIncompleteError(PrunedLoRAError):
    """Training ended before every planned pruning event had taken place."""


class InconsistentProcessesError(PrunedLoRAError):
    """Several processes chose different components to remove."""


class OutputError(PrunedLoRAError, OSError):
    """An output that exists already, or that differs from memory once written."""


class AdapterFileError(PrunedLoRAError, ValueError):
    """A file that is no adapter, that is damaged, or that would be dangerous to open."""


class MissingPackageError(PrunedLoRAError, ImportError):
    """An optional package that this call needs is not installed."""
