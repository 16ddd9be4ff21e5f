"""The entry of the command ``prunedlora``; whatever goes wrong on purpose is one line on stderr."""

import logging
import sys
from collections.abc import Sequence

from prunedlora.errors import ConfigurationError, PrunedLoRAError
from prunedlora.optional import installed_version, require


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line, that of the process by default, and exit.

    The status is 0, or 1 where `prunedlora verify` finds something wrong or an adapter, a file or a
    package is not as it must be, or 2 where the command line asks for something impossible.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        sys.stdout.write(f"prunedlora {installed_version()}\n")
        sys.exit(0)
    try:
        require("tyro")  # for its message: the next line imports it
        from prunedlora.cli.commands import parse

        sys.exit(parse(arguments).run())
    except PrunedLoRAError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2 if isinstance(error, ConfigurationError) else 1)
