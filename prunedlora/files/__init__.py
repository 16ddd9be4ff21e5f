"""An adapter on disk: reading it without trusting it, and writing it whole or not at all.

`adapter_file` (open_adapter, AdapterFile), `inspection` (inspect_adapter), `export` (export_adapter), `readers` (the
scaling that each reader applies), `layouts` (uniform, padded, ragged), `adapter_config`, `tensor_names` and `header`
(what a file says of itself), `writing` (write_tensors).
"""
