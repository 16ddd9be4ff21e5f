"""What criteria need to know of an adapter, measured while a model runs.

`data` (Statistics), `measurement` (measure_statistics), `collector` (Collector), `fisher_loss` (fisher_loss);
`bottleneck`, `core_gradients`, `fisher` and `gradients` (what is recorded), `hooks` and `average` (how).
"""
