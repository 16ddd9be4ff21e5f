"""An adapter on disk: reading it without trusting it, and writing it whole or not at all.

`adapter_file` (open_adapter, AdapterFile), `inspection` (inspect_adapter), `export` (export_adapter), `card` (the
README.md of a folder), `readers` (the scaling that each reader applies), `metadata` (the header of a new file),
`layouts` (uniform, padded, ragged), `scalings` (where each module's scaling stands), `tensor_names` (pairs of factors,
and what is carried over), `spellings` (how files name the two factors), `adapter_config` and `header` (what a file says
of itself), `writing` (write_tensors).
"""
