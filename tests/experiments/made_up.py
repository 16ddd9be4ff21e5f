"""A made-up result of a run."""

import numpy as np


def result(accuracy: float, loss: float, n: int = 200, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    right = np.arange(n) < round(accuracy * n)
    return {
        "correct": "".join("1" if r else "0" for r in right),
        "interval": [accuracy - 0.05, accuracy + 0.05],
        "cross_entropy": loss,
        "losses": (loss + 0.01 * rng.standard_normal(n)).tolist(),
        "trainable_parameters": 10,
        "accuracy": accuracy,
    }
