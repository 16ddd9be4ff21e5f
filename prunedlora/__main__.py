"""``python -m prunedlora`` is the command ``prunedlora``."""

from prunedlora.cli.commands import main

main()
