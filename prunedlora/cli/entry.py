"""The entry of the command ``prunedlora``; whatever goes wrong on purpose is one line on stderr."""

import contextlib
import io
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence

from prunedlora.cli.output import print_text
from prunedlora.errors import ConfigurationError, PrunedLoRAError
from prunedlora.optional import installed_version, require


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line, that of the process by default, and exit.

    The status is 0, or 1 where `prunedlora verify` finds something wrong or an adapter, a file or a
    package is not as it must be, or 2 where the command line asks for something impossible.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # A terminal that lacks a letter shows another in its place.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        with _stopped_in_order():
            sys.exit(_status(arguments))
    except PrunedLoRAError as error:
        _say(f"error: {error}")
        sys.exit(2 if isinstance(error, ConfigurationError) else 1)
    except BrokenPipeError:
        # Whoever read has seen enough; nor must Python complain when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        _say("interrupted; nothing was left behind")
        sys.exit(130)


def _status(arguments: Sequence[str]) -> int:
    """Run a command line; its exit status.

    Raises:
        OutputError: what it says cannot be written.
    """
    if arguments == ["--version"]:
        print_text(f"prunedlora {installed_version()}")
        return 0
    require("tyro")  # for its message: the next line imports it
    from prunedlora.cli.commands import parse

    command = parse(arguments)
    return command.run()


@contextlib.contextmanager
def _stopped_in_order() -> Iterator[None]:
    """Whoever ends the process gets what an interruption gives: nothing is left behind."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread, which alone can
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(text + "\n")
