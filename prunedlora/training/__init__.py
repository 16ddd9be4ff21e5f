"""Pruning an adapter while it is trained.

`callback` (PruningCallback), `axolotl` (the same as a plugin), `pruner` (LoraRankPruner), `config` (PruneConfig),
`schedule` (Schedule, PruneEvent), `checkpoint` (the pruner's state in a file); `event` (carrying one out), `rotation`
(optimiser state into a new basis), `optimizers` (which steps and gradients count), `trial` (of an optimiser, before the
first), `learning_rate` (how much of it is left after the last event), `summary` (plan and report as text).
"""
