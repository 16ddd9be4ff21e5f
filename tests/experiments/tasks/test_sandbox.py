import pytest

from experiments.tasks.sandbox import passes


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
    endless = program.startswith("while")  # all others are to fail before the time is up
    assert not passes(program, seconds=1 if endless else 10)


def test_a_program_that_catches_the_refusal_still_has_no_network():
    assert passes(
        "try:\n    import socket\n    socket.create_connection(('127.0.0.1', 1))\n"
        "except PermissionError:\n    pass\nelse:\n    raise SystemError"
    )
