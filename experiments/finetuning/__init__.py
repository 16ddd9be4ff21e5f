"""One fine-tuning run: models, data, methods, training, evaluation.

`models` (load_base), `data` (training_batches), `texts`, `processes`, `methods` (prepare, pruner), `controls`
(rules of a study), `matcher` and `matching` (a student and its teacher), `precision`, `train`,
`evaluate`, `decoding` and `lm_eval`; `calibration` (statistics of a trained adapter) and `truncate` (lower ranks
without training).
"""
