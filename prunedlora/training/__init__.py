"""Pruning an adapter while it is trained.

`callback` (PruningCallback), `pruner` (LoraRankPruner), `config` (PruneConfig), `schedule` (Schedule, PruneEvent),
`checkpoint` (the pruner's state in a file); `event` (carrying one out), `rotation` (optimiser state into a new basis),
`optimizers` (which steps and gradients count), `learning_rate` (how much of it is left after the last event).
"""
