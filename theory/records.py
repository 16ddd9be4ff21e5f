"""Writing results: atomically, and with a record of the environment."""

import json
import math
import os
import platform
import re
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch

#: What `to_json` writes for numbers that JSON does not have.
NOT_FINITE = re.compile('"(-?inf|nan)"')


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write under a temporary name, then rename: a reader never sees half a file.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "folder" / "x.txt"
    >>> write_atomically(target, "done")
    >>> target.read_text(), [p.name for p in target.parent.iterdir()]
    ('done', ['x.txt'])
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.replace(path)


def to_json(value: Any) -> str:
    r"""JSON text; an infinite or missing number becomes the string "inf", "-inf" or "nan", since JSON has none.

    >>> to_json({"ratio": float("inf")})
    '{\n "ratio": "inf"\n}\n'
    """
    return json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str) -> Any:
    r"""What `to_json` wrote, infinite and missing numbers included.

    >>> from_json(to_json({"ratio": float("inf"), "name": "infinite"}))
    {'ratio': inf, 'name': 'infinite'}
    """
    value = json.loads(text)
    return _numbers(value) if NOT_FINITE.search(text) else value


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_numbers(entry) for entry in value]
    return float(value) if isinstance(value, str) and value in ("inf", "-inf", "nan") else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def environment(device: str) -> dict[str, str | int]:
    """What the numbers depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "threads": torch.get_num_threads(),
        "precision": "float64",
    }
