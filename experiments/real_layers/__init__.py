"""The statements of `theory`, measured on trained adapters of real models; ``python -m experiments.real_layers``."""
