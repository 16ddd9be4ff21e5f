"""What the command refuses before anything is run."""

import pytest
import torch

from experiments.__main__ import Arguments, main
from tests.paths import ROOT


def test_a_preset_that_keeps_to_one_process_refuses_several():
    with pytest.raises(SystemExit, match="leave --processes out"):
        main(Arguments(preset="smoke", processes=2, dry_run=True))


def test_no_run_is_started_when_the_time_is_up():
    with pytest.raises(SystemExit, match="time limit reached"):
        main(Arguments(preset="smoke", only=("table1",), fresh=True, minutes=0))


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("preset", "expected"), [("smoke", 1), ("cpu", 2)])
def test_tiny_models_are_not_shared_among_threads(preset, expected, monkeypatch):
    monkeypatch.setattr("experiments.reporting.page.write", lambda: ROOT / "report.html")
    main(Arguments(preset=preset, only=()))
    assert torch.get_num_threads() == expected
