"""For a machine without network: everything in pieces that can be carried there.

`bundle` (packs the project, wheels, models and data), ``unpack_and_run.sh`` (goes with them, sets up and runs).
"""
