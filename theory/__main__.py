"""Command line: verify the statements, write the results, exit 1 if one is not what it claims to be."""

import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from prunedlora.errors import PrunedLoRAError
from theory import records
from theory.checking.adversary import STEPS
from theory.checking.registry import select_statements
from theory.checking.result import Summary
from theory.checking.runner import verify
from theory.report import page

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Arguments:
    """Verify the statements about pruning rules.

    Attributes:
        statement: key of one statement; S6 stands for all its parts.  All statements by default.
        instances: random instances of each statement; by default what each statement asks for.
        seed: of the whole run.
        device: cpu, or cuda for large runs; instances are the same on each.
        out: folder for statements.json, the report and its pictures.
        steps: steps of the adversarial search.
        tighten: multiplies every bound; 0.9 is a self-test, in which every bound claimed tight must fall.
    """

    statement: str | None = None
    instances: int | None = None
    seed: int = 0
    device: str = "cpu"
    out: Path = RESULTS
    steps: int = STEPS
    tighten: float = 1.0


def run(arguments: Arguments) -> list[Summary]:
    """Verify and write; one summary per statement."""
    began = time.perf_counter()
    processor = time.process_time()
    summaries = []
    for statement in select_statements(arguments.statement):
        summary = verify(
            statement,
            arguments.instances,
            arguments.seed,
            arguments.device,
            arguments.tighten,
            arguments.steps,
        )
        summaries.append(summary)
        logging.info(
            "%-16s %-12s %6.1f s  %s", summary.key, summary.verdict, summary.seconds, summary.title
        )
    record = {
        "seed": arguments.seed,
        "tighten": arguments.tighten,
        "steps": arguments.steps,
        "seconds": time.perf_counter() - began,
        "processor_seconds": time.process_time() - processor,
        "environment": records.environment(arguments.device),
        "statements": [summary.to_json() for summary in summaries],
    }
    records.write_atomically(arguments.out / "statements.json", records.to_json(record))
    page.write(arguments.out)
    return summaries


def main(arguments: list[str] | None = None) -> int:
    """0 if every statement is what it claims to be, 1 if not, 2 for wrong usage."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        summaries = run(tyro.cli(Arguments, prog="python -m theory", args=arguments))
    except PrunedLoRAError as error:
        logging.error("%s", error)
        return 2
    failed = [summary.key for summary in summaries if not summary.passed]
    if failed:
        logging.error("not what they claim to be: %s", ", ".join(failed))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
