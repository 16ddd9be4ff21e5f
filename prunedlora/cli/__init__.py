"""The command ``prunedlora``.

`entry` (main), `commands` (Compress, Inspect, Verify, Bench), `parsing` (20MB, 1%, 4096x1024, damping=0.1), `tables`
and `plots` (what is shown), `output` (print_text).
"""
