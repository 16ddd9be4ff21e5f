"""Timings of the library that stand in its documents, each a command that writes a file of ``results``.

`compress` (truncation through the factors, against PEFT), `truncation` (the same mathematics by itself, against
dense decompositions), `event` (a pruning event by every rule), `statistics` (what collecting statistics costs a step),
`step` (a training step with every pruner), `whole_run` (from a high rank to a low one, time and memory), `svd_fisher`
(with its statistics, time and memory), `decoding` (answers to problems), `together` (several trainings at once);
`training` (the model of both, and the least that its step takes), `check` (ratios against wide margins), `machine`
(seconds, the least there could be, the record).  ``python -m experiments.benchmarks`` does all of them.
"""
