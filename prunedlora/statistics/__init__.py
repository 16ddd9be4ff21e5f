"""What criteria need to know of an adapter, measured while a model runs.

`data` (Statistics), `measurement` (measure_statistics), `collector` (Collector), `fisher_loss` (fisher_loss),
`targets` (logits where they predict something that counts);
`bottleneck`, `core_gradients`, `fisher` and `gradients` (what is recorded), `hooks` and `average` (how).
"""
