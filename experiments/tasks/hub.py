"""Data sets on the hub, at pinned revisions."""

import os
from pathlib import Path
from typing import Any


def load_rows(name: str, split: str, *parts: str) -> Any:
    """Rows of a split of a data set on the hub, named ``name@revision``; `parts` name its configuration.

    Raises:
        SystemExit: the hub's library is missing.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise SystemExit(
            "this task reads data from the hub: pip install 'prunedlora[hub]'"
        ) from None
    name, _, revision = name.partition("@")
    return load_dataset(name, *parts, split=split, revision=revision)


def cache_folder() -> Path:
    """Where downloaded and rebuilt data and models lie; set PRUNEDLORA_CACHE to move it."""
    return Path(os.environ.get("PRUNEDLORA_CACHE", Path.home() / ".cache" / "prunedlora"))
