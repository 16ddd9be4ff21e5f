"""Problems that were written are those that are generated, and nothing else is taken for them."""

import gzip
import importlib.util
import itertools
import json

import pytest

from experiments.tasks import math as math_tasks
from experiments.tasks import problems

COUNT = 2_300  # more than are held out, and more than a chunk


@pytest.fixture
def carried(tmp_path, monkeypatch):
    """A cache with problems, on a machine without reasoning-gym."""
    for split in (0, 1):
        problems.write("gsm_symbolic", {}, split, COUNT, tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setenv("PRUNEDLORA_CACHE", str(tmp_path))
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "reasoning_gym" else found(name)
    )
    return tmp_path


def a_task():
    """The task, of which nothing has been generated or read."""
    return math_tasks._task(
        "gsm_symbolic",
        "gsm_symbolic",
        {},
        math_tasks._gsm,
        math_tasks.number_after_hashes,
        max_new_tokens=320,
    )


def test_a_task_is_the_same_from_a_file(carried):
    task = a_task()
    assert task.test(50) == math_tasks.GSM_SYMBOLIC.test(50)
    assert task.validation(50) == math_tasks.GSM_SYMBOLIC.validation(50)
    assert task.train(1_500, seed=0) == math_tasks.GSM_SYMBOLIC.train(1_500, seed=0)


@pytest.mark.usefixtures("carried")
def test_a_run_that_needs_more_than_the_file_holds_is_refused():
    stream = problems.problems("gsm_symbolic", {}, 1)
    assert len(list(itertools.islice(stream, COUNT))) == COUNT
    with pytest.raises(SystemExit, match="too few problems"):
        next(stream)
    with pytest.raises(SystemExit, match="pip install reasoning-gym"):
        next(problems.problems("gsm_symbolic", {}, 7))


def test_a_changed_file_is_refused(carried):
    (file,) = (carried / "reasoning_gym").glob("*_1.json.gz")
    content = json.loads(gzip.decompress(file.read_bytes()))
    content["problems"] = content["problems"].replace("a", "b", 1)
    file.write_bytes(gzip.compress(json.dumps(content).encode()))
    with pytest.raises(SystemExit, match="is damaged"):
        next(problems.problems("gsm_symbolic", {}, 1))
