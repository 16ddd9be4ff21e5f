"""Is a run reproducible?

``python -m experiments.running.determinism RESULT.json...``

Each run is repeated as its file says, on as many threads, and everything but times, memory and the error of reloading
is compared to the last digit.  That holds for one version of torch on one kind of machine; elsewhere a difference says
nothing about the code, so a version or a processor that differs is named.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from experiments.jobs.record import provenance
from experiments.jobs.run import run
from experiments.settings.jobs import RunConfig
from experiments.settings.validation import validated
from theory.records import from_json, to_json

#: What two runs of the same configuration may differ in.
MEASURED = (
    "train_seconds",
    "evaluation_seconds",
    "peak_memory_bytes",
    "reload_max_difference",
    "seconds",
)


def differences(before: Any, after: Any, where: str = "result") -> list[str]:
    """Where two results differ, except in what `MEASURED` names.

    >>> differences({"a": [1, 2], "train_seconds": 3.0}, {"a": [1, 4], "train_seconds": 5.0})
    ['result.a[1]: 2 before, 4 now']
    """
    if isinstance(before, dict) and isinstance(after, dict):
        names = [name for name in {**before, **after} if name not in MEASURED]
        return [d for n in names for d in differences(before.get(n), after.get(n), f"{where}.{n}")]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = zip(before, after, strict=True)
        return [d for i, (b, a) in enumerate(pairs) for d in differences(b, a, f"{where}[{i}]")]
    return [] if before == after else [f"{where}: {before} before, {after} now"]


def check(file: Path) -> list[str]:
    """Repeat the run of a result file; returns in what the results differ.

    Raises:
        SystemExit: the run starts from what another run trained, which is not kept.
    """
    record = json.loads(file.read_text())
    config = validated(RunConfig, record["config"], file.name)
    if config.source is not None:
        raise SystemExit(f"{file}: starts from what another run trained; check that one")
    threads = torch.get_num_threads()
    torch.set_num_threads(record["environment"]["threads"])
    try:
        with tempfile.TemporaryDirectory() as folder:
            result = run(config, Path(folder) / "run")
    finally:
        torch.set_num_threads(threads)
    return differences(record["result"], from_json(to_json(result)))


def main(files: list[Path]) -> int:
    """Check all files; the number of those that differ."""
    wrong = 0
    for file in files:
        differing = check(file)
        wrong += bool(differing)
        verdict = "differs" if differing else "the same"
        print(f"{file.name}: {verdict}", *differing[:10], sep="\n  ")
        there = json.loads(file.read_text())["environment"]
        for was, now in (
            (there["packages"]["torch"], torch.__version__),
            (there["device"], provenance()["device"]),
        ):
            if differing and was != now:
                print(f"  it was made with {was}, this is {now}")
    return wrong


if __name__ == "__main__":
    sys.exit(min(1, main([Path(argument) for argument in sys.argv[1:]])))
