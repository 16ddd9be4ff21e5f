"""What a command prints."""

import os
import sys

from prunedlora.errors import OutputError


def print_text(text: str) -> None:
    """Write text to stdout at once, so that what fails fails here.

    Raises:
        OutputError: there is no stdout, or it is full.
        BrokenPipeError: nobody reads it any more.
    """
    if sys.stdout is None:
        raise OutputError("there is no standard output to print to")
    try:
        sys.stdout.write(text.rstrip("\n") + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is left in the buffer would fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError(f"cannot print: {error.strerror or error}") from error
