"""Run untrusted code: a model's answer to a programming problem, with its tests.

What is covered.  The program runs in a process of its own, in an empty folder, without this process's environment
variables, with limits of processor time, clock, memory and open files.  It has no network: a network namespace of its
own where the kernel gives one, and sockets refused everywhere.  It cannot start other programs, send signals, or
create, change or remove files.  Its end counts only if it reaches its last line, after which a token is printed that it
is not given.

What is not covered.  This guards against what a language model may write by accident, not against an attacker.  The
audit hook that refuses is Python code in the same interpreter, and a program that sets out to defeat it can: through
memory that it corrupts, through a module in C that raises no audit event, or by finding the token, in its frames or in
``/proc``, and printing it.  The program can read every file that the user can; what it reads has nowhere to go.  Limits
are those of one process, by ``setrlimit``; macOS refuses some of them, and on Windows, which has none, no program
passes.  There is no seccomp filter, no chroot and no other user.  To run code that may be hostile, run all of this in a
container or a virtual machine.
"""

import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

CHILD = Path(__file__).parent / "sandbox_child.py"
#: Of address space.
MEMORY_BYTES = 1 << 30


def passes(program: str, *, seconds: float = 5.0) -> bool:
    """Whether a program runs to its last line without an error, within its limits.

    Leaving early, by ``sys.exit`` say, is not passing.

    Args:
        program: Python source; only the standard library can be imported.
        seconds: of processor time and, twice that, of the clock.

    >>> passes("assert 1 + 1 == 2"), passes("assert 1 + 1 == 3"), passes("raise SystemExit(0)")
    (True, False, False)
    """
    token = secrets.token_hex(16)
    limits = [str(max(1, round(seconds))), str(MEMORY_BYTES)]
    command = [sys.executable, "-I", "-S", str(CHILD), token, *limits]
    with tempfile.TemporaryDirectory() as empty:
        try:
            out = subprocess.run(
                command,
                input=program.encode(),
                capture_output=True,
                cwd=empty,
                env={"PATH": os.defpath, "PYTHONHASHSEED": "0"},
                timeout=2 * seconds,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            return False
    return out.returncode == 0 and out.stdout.endswith(token.encode())
