"""From a trained adapter's file to one of lower rank, and checks of both.

`compression` (compress_adapter), `several` (compress_adapters), `merging` (merge_adapters), `extraction`
(extract_adapter), `config` (CompressConfig), `report` (CompressReport), `verification` (verify_adapter), `benchmark`
(compare); `sums` (weighted sums of adapters as one), `modules` (one module at a time), `calibration` (statistics and
losses on data), `base_model`, `model_weights`, `examples` (records to batches), `devices` (where tensors are computed),
`output` (the new file), `card` (its README.md).
"""
