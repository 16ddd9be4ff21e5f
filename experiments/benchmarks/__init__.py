"""Timings of the library that stand in its documents, each a command that writes a file of ``results``.

`compress` (lowering ranks through the factors, against PEFT), `statistics` (what collecting statistics costs a step).
"""
