"""Whether what was made fast still is, within wide margins: ``python -m experiments.benchmarks.check``.

Each ratio is of two ways measured in this process, in processor time, on a part of what the benchmarks measure; a
margin is at most half of what an idle machine gives, so that a busy one passes.  Ends with status 1 below a margin.
"""

import sys
from dataclasses import replace

import torch

from experiments.benchmarks.event import ON_CPU, event_seconds, slow_ways

#: Least ratios of the naive way's time to that of an event, by rule.
MARGINS = {"prunedlora2025": ("naive", 15.0), "svd": ("dense_svd", 4.0)}


def ratios() -> dict[str, float]:
    """How many times faster than the naive way an event is, by rule."""
    setting = replace(ON_CPU, shapes=ON_CPU.shapes[:4], sampled=1)
    slow, alike = slow_ways(setting, "cpu")
    found = {
        name: slow[way] / event_seconds(name, setting, "cpu") for name, (way, _) in MARGINS.items()
    }
    # A fast way to another choice is not fast.
    return found if alike else dict.fromkeys(found, 0.0)


def main() -> int:
    """Measure, print, and say by the status whether all margins are kept."""
    torch.set_num_threads(1)
    found = ratios()
    for name, ratio in found.items():
        way, least = MARGINS[name]
        print(f"{name}: {ratio:.1f} times as fast as {way}, at least {least:g} expected")
    return int(any(found[name] < least for name, (_, least) in MARGINS.items()))


if __name__ == "__main__":
    sys.exit(main())
