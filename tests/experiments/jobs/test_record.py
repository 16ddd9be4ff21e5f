"""What a record says of the machine."""

import platform

import torch

from experiments.jobs import record as machine


def test_the_processor_is_named_with_the_instructions_that_torch_uses():
    name, _, instructions = machine.processor().rpartition(", ")
    assert name
    assert instructions == torch.backends.cpu.get_cpu_capability()


def test_where_nothing_lists_processors_the_architecture_stands_for_them(monkeypatch):
    monkeypatch.setattr(machine.Path, "exists", lambda _: False)
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert machine.processor().startswith(f"{platform.machine()}, ")
