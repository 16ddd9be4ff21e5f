"""The statements of `theory`, measured on trained adapters of real models; ``python -m experiments.real_layers``.

`settings` (which adapters, which layers), `measured_model` (MeasuredModel: an adapter with what is needed of it),
`moments` (what a layer sees), `scorer` (the loss, from one layer on), `edits` (other factors for a while); and the
parts: `attention`, `curvature`, `prediction`, `noise`.
"""
