"""What is done, and in which process.

`runner` (Runner: does missing runs and keeps their results), `quick` (some runs once more, beside the committed
results), `plan` (what is missing, before anything begins), `durations` (how long runs took), `progress` (which run of
how many), `workers` (processes that do one job after another), `admission` (when a job may begin), `isolation` (a
process for one job), `dry_run` (is a preset sound, and what will it take), `pieces` (of a few minutes), `determinism`
(is a run reproducible).
"""
