import pytest

from experiments.tasks import TASKS
from experiments.tasks.sandbox import passes

TASK = TASKS["human_eval"]


@pytest.mark.parametrize(
    "program",
    [
        "import math, re, hashlib, collections\nassert math.sqrt(4) == 2",
        "from typing import List\nprint('out')",
    ],
)
def test_an_ordinary_program_passes(program):
    assert passes(program)


@pytest.mark.parametrize(
    "program",
    [
        "assert False",
        "def f(:",
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "while True: pass",
        "x = bytearray(1 << 33)",
        "import socket; socket.socket()",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1')",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
        "import os; os.fork()",
        "import ctypes; ctypes.CDLL(None)",
        "open('left_behind', 'w')",
        "import os; os.open('left_behind', os.O_CREAT | os.O_WRONLY)",
        "import os; os.kill(os.getppid(), 0)",
    ],
)
def test_errors_early_exits_and_whatever_reaches_outside_do_not_pass(program):
    assert not passes(program, seconds=1)


def test_a_program_that_catches_the_refusal_still_has_no_network():
    assert passes(
        "try:\n    import socket\n    socket.create_connection(('127.0.0.1', 1))\n"
        "except PermissionError:\n    pass\nelse:\n    raise SystemError",
        seconds=2,
    )


def test_the_canonical_solutions_pass_and_a_wrong_one_does_not():
    for example in TASK.test(20):
        body = TASK.read_answer(example.target)
        assert TASK.judge(body, example), example.prompt
        assert not TASK.judge("    return None", example)


def test_splits_are_disjoint_and_functions_are_whole():
    test, validation, train = TASK.test(164), TASK.validation(100), TASK.train(1_000, seed=0)
    assert (len(test), len(validation), len(train)) == (164, 100, 1_000)
    prompts = {e.prompt for e in train}
    assert prompts.isdisjoint(e.prompt for e in test + validation)
    assert len(prompts) == 1_000
    names = {e.prompt.removeprefix("def ").partition("(")[0] for e in train + validation}
    assert names.isdisjoint(e.prompt.rsplit("def ", 1)[1].partition("(")[0] for e in test)
    for e in train[:200]:
        compile(e.prompt + e.target, "function", "exec")
        assert e.target.startswith("    ")
    assert TASK.train(50, seed=0) == train[:50] != TASK.train(50, seed=1)
    assert not TASK.judge("    pass", validation[0])
