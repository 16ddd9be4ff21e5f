"""``python -m prunedlora`` is the command ``prunedlora``."""

from prunedlora.cli.entry import main

if __name__ == "__main__":
    main()
