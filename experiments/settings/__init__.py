"""What can be set: dataclasses, and their files.

`jobs` (RunConfig, OneShot, Compression, Cost: what a result depends on), `preset` (Preset, load_preset: what is made),
`selection` (Selection, load_selection: what is made once more), `validation` (from JSON and YAML, with types kept to),
``presets/*.yaml``, ``quick.yaml``.
"""
