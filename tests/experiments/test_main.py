"""What the command refuses and says before anything is run, and where it writes."""

import subprocess

import pytest
import torch

from experiments import __main__ as command
from experiments.__main__ import Arguments, main
from experiments.folders import Places
from tests.paths import ROOT


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """What would be written into the working tree goes to a folder of the test."""

    def places(preset, update_reference=False):
        own = tmp_path / preset
        reference = None if update_reference else ROOT / "experiments" / "results" / preset
        return Places(own, own / "figures", own / "report.html", reference)

    monkeypatch.setattr(command, "places", places)
    monkeypatch.setattr("experiments.running.quick.places", places)
    monkeypatch.setattr("experiments.running.runner.ARTIFACTS", tmp_path / "artifacts")
    return tmp_path


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
    monkeypatch.setattr(command, "do_preset", lambda *_: None)
    monkeypatch.setattr("experiments.running.plan.text", lambda *_: "")
    main(Arguments(preset=preset))
    assert torch.get_num_threads() == expected


def test_an_experiment_that_a_preset_does_not_have_is_refused():
    for preset, name in (("cpu", "low_rank"), ("smoke", "theory"), ("quick", "table1")):
        with pytest.raises(SystemExit, match=f"preset {preset} has no {name}; it has: .*one_shot"):
            main(Arguments(preset=preset, only=(name,)))


def test_the_reference_is_not_what_is_compared_with_it():
    with pytest.raises(SystemExit, match="quick compares with committed results"):
        main(Arguments(update_reference=True))


def test_what_is_done_without_a_preset_is_quick(capsys):
    assert main(Arguments(only=("theory",), dry_run=True, fresh=True)) == 0
    said = capsys.readouterr().out
    assert said.startswith("To do: the statements of theory/.\nAbout ")


def test_a_dry_run_speaks_of_what_is_asked_for_alone(elsewhere, capsys):
    main(Arguments(preset="smoke", only=("figure3",), dry_run=True))
    one = capsys.readouterr().out
    main(Arguments(preset="smoke", dry_run=True))
    everything = capsys.readouterr().out
    first, second = (int(text.split(": ")[1].split(" ")[0]) for text in (one, everything))
    assert 0 < first < second
    assert not list(elsewhere.iterdir())


def test_committed_results_are_read_and_tables_go_to_the_users_folder(elsewhere, capsys):
    before = changes()
    assert main(Arguments(preset="cpu", only=("initial_rank",))) == 0
    said = capsys.readouterr().out
    assert "runs are there, nothing is computed" in said
    assert "LoRA at the target rank" in said
    assert not (elsewhere / "cpu" / "runs").exists()
    # From committed results come the committed tables.
    for name in ("initial_rank.md", "initial_rank.csv", "initial_rank_differences.csv"):
        committed = ROOT / "experiments" / "results" / "cpu" / name
        assert (elsewhere / "cpu" / name).read_text() == committed.read_text()
    assert "From which rank to prune to 8" in (elsewhere / "cpu" / "report.html").read_text()
    assert changes() == before


def test_a_run_of_a_user_leaves_the_reference_as_it_is(elsewhere, capfd):
    before = changes()
    assert main(Arguments(preset="smoke", only=("figure3",))) == 0
    said = capfd.readouterr()
    assert list((elsewhere / "smoke" / "runs").glob("*.json"))
    assert (elsewhere / "smoke" / "figure3.md").exists()
    assert (elsewhere / "smoke" / "figures" / "figure3.png").exists()
    assert changes() == before
    # Of other libraries nothing is seen: that is in the log.
    assert "run 1 of " in said.out
    assert "LOAD REPORT" not in said.out + said.err
    assert "%|" not in said.out + said.err
    log = (elsewhere / "artifacts" / "smoke" / "log.txt").read_text()
    assert "train" in log
    # Again there is nothing to do.
    main(Arguments(preset="smoke", only=("figure3",)))
    assert "nothing is computed" in capfd.readouterr().out


def test_the_reference_is_written_when_that_is_asked_for(elsewhere):
    main(Arguments(preset="smoke", only=("figure3",), update_reference=True))
    assert (elsewhere / "smoke" / "figure3.md").exists()


def changes() -> str:
    """What git says of the working tree."""
    status = ["git", "status", "--porcelain"]
    return subprocess.run(status, cwd=ROOT, capture_output=True, text=True, check=True).stdout
