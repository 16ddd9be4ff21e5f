"""Settings of short runs on the tiny models."""

from experiments.settings.preset import load_preset

BASE = load_preset("smoke").run
ENCODER = {
    "model": "tiny_bert",
    "task": "tweets",
    "target_modules": ("query", "value"),
    "learning_rate": 0.01,
}
