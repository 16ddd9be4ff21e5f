"""What is done, and in which process.

`runner` (Runner: does the missing runs of a preset and keeps their results), `isolation` (a job in a process of its
own), `dry_run` (is a preset sound, and what will it take), `determinism` (is a run reproducible).
"""
