"""What `experiments.tasks.sandbox` starts: ``sandbox_child.py TOKEN SECONDS BYTES``, with the program on its input."""

import contextlib
import io
import os
import resource
import sys
from typing import Any

#: Of ``unshare``, from Linux's sched.h.
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
#: Beginnings of audit events, and modules that could do the same without one.
REFUSED = (
    "socket.", "subprocess.", "ctypes.", "shutil.", "signal.", "os.system", "os.exec", "os.fork", "os.posix_spawn",
    "os.spawn", "os.kill", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate",
    "os.chmod", "os.chown", "os.chflags", "os.utime", "os.startfile", "pty.spawn",
)  # fmt: skip
MODULES = {"_posixsubprocess", "_ctypes", "_socket", "_multiprocessing"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def leave_the_network() -> None:
    """A network namespace without interfaces, where the kernel allows it."""
    import ctypes

    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).unshare(CLONE_NEWUSER | CLONE_NEWNET)


def limit(seconds: int, memory_bytes: int) -> None:
    """Limits of the process, which it cannot raise again."""
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 64,
    }
    for what, most in limits.items():
        with contextlib.suppress(ValueError, OSError):  # macOS refuses some
            resource.setrlimit(what, (most, most))


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: what a solution of a programming problem has no business with."""
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
    if event.startswith(REFUSED) or writes or (event == "import" and arguments[0] in MODULES):
        raise PermissionError(f"{event} is refused here")


def main() -> None:
    """Run the program; print the token if it came to its end."""
    token, seconds, memory_bytes = sys.argv[1:]
    program = sys.stdin.read()
    out = sys.stdout
    # The program sees neither the token nor its own source.
    sys.argv[1:] = []
    sys.stdin = io.StringIO()
    # What is needed to lock the door is done first, and what it needed is taken away.
    if sys.platform == "linux":
        leave_the_network()
    for module in MODULES | {"ctypes"}:
        sys.modules.pop(module, None)
    limit(int(seconds), int(memory_bytes))
    sys.addaudithook(refuse)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
    out.write(token)
    out.flush()


if __name__ == "__main__":
    main()
