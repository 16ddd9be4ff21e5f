"""The course of the learning rate, the same for every row of every table."""

import math
from collections.abc import Callable

#: Share of the steps over which it rises.
WARMUP_SHARE = 0.03


def cosine_with_warmup(steps: int) -> Callable[[int], float]:
    """Factor of the learning rate at a step: linear up over the first 3 %, then half a cosine down to zero."""
    warmup = max(1, round(WARMUP_SHARE * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return factor
