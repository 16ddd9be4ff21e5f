import pytest

from experiments.tasks import TASKS
from experiments.tasks.math import first_number, number_after_hashes


@pytest.mark.parametrize("name", ["arithmetic", "gsm_symbolic"])
def test_the_target_of_every_example_gives_its_answer(name):
    task = TASKS[name]
    for example in task.train(300, seed=0):
        assert float(task.read_answer(example.target)) == float(example.answer)


@pytest.mark.parametrize(
    ("text", "first", "final"),
    [
        (" -37", "-37", "-37"),
        ("12 or 13", "12", "13"),
        ("2*3=6\n#### 1,234.5 apples 7", "2", "1234.5"),
        ("no idea", "", ""),
    ],
)
def test_answers_are_read_off(text, first, final):
    assert first_number(text) == first
    assert number_after_hashes(text) == final
