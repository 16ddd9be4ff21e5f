"""``python -m prunedlora`` is the command ``prunedlora``."""

from prunedlora.cli.entry import main

main()
