"""``python -m prunedlora`` is the command ``prunedlora``."""

from prunedlora.cli import main

main()
