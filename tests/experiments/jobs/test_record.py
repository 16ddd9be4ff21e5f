"""What a record says of the record."""

import platform

import torch

from experiments.jobs import record


def test_the_processor_is_named_with_the_instructions_that_torch_uses():
    name, _, instructions = record.processor().rpartition(", ")
    assert name
    assert instructions == torch.backends.cpu.get_cpu_capability()


def test_where_nothing_lists_processors_the_architecture_stands_for_them(monkeypatch):
    monkeypatch.setattr(record.Path, "exists", lambda _: False)
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert record.processor().startswith(f"{platform.machine()}, ")
