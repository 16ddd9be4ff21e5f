"""Fixtures of all tests."""

import gc
from collections.abc import Callable

import pytest
import torch
from peft import PeftModel

from tests.models import with_lora


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def lora() -> Callable[..., PeftModel]:
    """Makes a Llama with an adapter; keyword arguments go to LoraConfig."""
    return with_lora


def pytest_collection_finish() -> None:
    """Imported modules stay: to look for garbage in them takes a quarter of a second each time."""
    gc.collect()
    gc.freeze()
