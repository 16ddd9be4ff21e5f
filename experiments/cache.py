"""Where rebuilt models and downloaded data are kept."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder; set PRUNEDLORA_CACHE to move it."""
    return Path(os.environ.get("PRUNEDLORA_CACHE", Path.home() / ".cache" / "prunedlora"))
