"""What the command refuses before anything is run."""

import pytest

from experiments.__main__ import Arguments, main


def test_a_preset_that_keeps_to_one_process_refuses_several():
    with pytest.raises(SystemExit, match="leave --processes out"):
        main(Arguments(preset="smoke", processes=2, dry_run=True))


def test_no_run_is_started_when_the_time_is_up():
    with pytest.raises(SystemExit, match="time limit reached"):
        main(Arguments(preset="smoke", only=("table1",), fresh=True, minutes=0))
