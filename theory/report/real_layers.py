"""What was measured on the layers of real models: the results of `experiments.real_layers`."""

from pathlib import Path
from typing import Any

from theory.records import from_json

RESULTS = Path(__file__).parents[1] / "results"
#: Digits kept of every measured number.
DIGITS = 6


def file(model: str) -> Path:
    """Where the result of a model lies."""
    return RESULTS / f"real_layers_{model}.json"


def read() -> dict[str, dict[str, Any]]:
    """Every committed result, by model."""
    return {
        path.stem.removeprefix("real_layers_"): from_json(path.read_text(encoding="utf-8"))
        for path in sorted(RESULTS.glob("real_layers_*.json"))
    }


def rounded(value: Any) -> Any:
    """The same structure with every float cut to `DIGITS` significant digits.

    >>> rounded({"a": [0.123456789, 1, "x"]})
    {'a': [0.123457, 1, 'x']}
    """
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(entry) for entry in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
