"""From a trained adapter's file to one of lower rank, and checks of both.

`compression` (compress_adapter), `config` (CompressConfig), `report` (CompressReport), `verification` (verify_adapter),
`benchmark` (compare); `modules` (one module at a time), `calibration` (statistics and losses on data), `base_model`,
`examples` (records to batches), `output` (the new file).
"""
