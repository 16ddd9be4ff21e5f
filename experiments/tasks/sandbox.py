"""Run a program that nobody has read: a model's answer to a programming problem, with its tests.

It gets a process of its own with limits of time and memory, no network (a network namespace of its own where the kernel
gives one; sockets refused everywhere), no other programs, and no way to write a file.  It can still read files: what it
reads has nowhere to go.
"""

import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

CHILD = Path(__file__).parent / "sandbox_child.py"


def passes(program: str, *, seconds: float = 5.0, memory_bytes: int = 1 << 30) -> bool:
    """Whether a program runs to its last line without an error, within its limits.

    Leaving early, by ``sys.exit`` say, is not passing.

    Args:
        program: Python source; only the standard library can be imported.
        seconds: of processor time and, twice that, of the clock.
        memory_bytes: of address space.

    >>> passes("assert 1 + 1 == 2"), passes("assert 1 + 1 == 3"), passes("raise SystemExit(0)")
    (True, False, False)
    """
    token = secrets.token_hex(16)
    command = [
        sys.executable,
        "-I",
        "-S",
        str(CHILD),
        token,
        str(max(1, round(seconds))),
        str(memory_bytes),
    ]
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
