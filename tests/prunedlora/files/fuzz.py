"""Compress many damaged adapters: each must end in a right result or in an error of the package.

``python -m tests.prunedlora.files.fuzz --count 100000`` goes on where it stopped, as long as the code is
the same, and writes ``tests/results/fuzz.json`` at the end.  The status is 1 where one file ended
otherwise, or took more than 10 seconds or 500 MB.  A number makes the same file each time: ``--first 7
--count 1`` tries the seventh alone.
"""

import argparse
import faulthandler
import hashlib
import json
import logging
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.jobs.record import provenance
from prunedlora import (
    CompressConfig,
    CompressReport,
    PrunedLoRAError,
    compress_adapter,
    extract_adapter,
    inspect_adapter,
    verify_adapter,
)
from tests.paths import ROOT
from tests.prunedlora.files.mutations import KINDS, METHODS, make, mutate
from tests.prunedlora.files.oracle import (
    products,
    products_of_methods,
    products_of_training,
    what_is_wrong,
)

#: Largest time and memory of one file: seconds of the processor, since the machine may be busy, and bytes.
SECONDS, MEMORY = 10.0, 500e6
RESULT = ROOT / "tests/results/fuzz.json"
#: A line for each file that was tried.
JOURNAL = ROOT / "tests/runs/fuzz.jsonl"
#: Address space beyond what is taken at the start; what asks for more gets an error, not the machine.
_SPARE = 4 << 30
#: Rooms of the library that no file is read by, and the files here that decide what comes of one.
_APART = ("training", "cli")
_TESTS = ("fuzz", "mutations", "oracle")


class TookTooLongError(BaseException):
    """Raised in the middle of what takes longer than is allowed; nothing in the package catches it."""


@dataclass(frozen=True)
class Tried:
    """One damaged file and what came of it.

    Attributes:
        seed: makes the same file each time.
        kind: the spelling, or another kind of adapter.
        ways: how it was damaged.
        what: and what was.
        outcome: ``"right"``, the name of an error of the package, or, behind ``"WRONG: "``, what is not
            as it must be.
        seconds: time of the processor.
        megabytes: memory in use at most beyond what was in use before.
    """

    seed: int
    kind: str
    ways: list[str]
    what: list[str]
    outcome: str
    seconds: float
    megabytes: float


def try_one(seed: int, place: Path) -> Tried:
    """Make, damage and compress the adapter of this number in an empty folder."""
    random_ = random.Random(seed)
    kind = KINDS[seed % len(KINDS)]
    adapter = make(kind, place, random_)
    damages = [mutate(adapter, random_) for _ in range(random_.choice([0, 1, 1, 1, 1, 2, 2, 3]))]
    out = place / ("out" if adapter.is_dir() else "out.safetensors")
    settings = _settings(random_)
    start, in_use = time.process_time(), _reset_peak()
    try:
        with _at_most(SECONDS):
            if seed % 4 == 0:
                _look(adapter)
            report, reads = _compressed(kind, adapter, out, CompressConfig(**settings))
            bare = _adapts_parameters(adapter)
            wrong = what_is_wrong(adapter, out, report.ranks, report.excluded, bare, of=reads)
            wrong = wrong or _other_ranks(report.ranks, report.ranks_before, settings)
        outcome = "right" if wrong is None else f"WRONG: {wrong}"
    except PrunedLoRAError as error:
        outcome = _judged(error, place, adapter)
    except TookTooLongError:
        outcome = f"WRONG: more than {SECONDS:g} s"
    except Exception as error:
        outcome = f"WRONG: {type(error).__name__}: {str(error)[:200]}"
    seconds, peak = time.process_time() - start, _peak() - in_use
    if peak > MEMORY:
        outcome = f"WRONG: {peak / 1e6:.0f} MB"
    ways, what = [way for way, _ in damages], [f"{way} {to}" for way, to in damages]
    what.append(json.dumps(settings))
    return Tried(seed, kind, ways, what, outcome, round(seconds, 4), round(peak / 1e6, 1))


def _compressed(
    kind: str, adapter: Path, out: Path, config: CompressConfig
) -> tuple[CompressReport, Callable[..., Any]]:
    """Do with an adapter what one does with its kind; the report, and what reads the old products."""
    if kind in METHODS:
        return extract_adapter(adapter, out, config), products_of_methods
    if kind == "pissa":
        initial = adapter.parent / "initial"
        report = compress_adapter(adapter, out, config, initial=initial)
        return report, partial(products_of_training, initial=initial)
    return compress_adapter(adapter, out, config), products


def _settings(random_: random.Random) -> dict[str, Any]:
    rank = random_.randint(1, 3)
    further = [{}, {}, {}, {"layout": "padded"}, {"layout": "ragged"}, {"scope": "global"}]
    further += [{"zero_modules": "exclude"}, {"conv_rank": 2}]
    further += [{"dtype": dtype} for dtype in ("fp16", "bf16", "fp32", "fp64", "fp8")]
    if random_.random() < 0.15:
        return {"energy": 0.9}
    return {"rank": rank, **random_.choice(further)}


def _look(adapter: Path) -> None:
    """What else reads adapters; errors of the package are as good as any table."""
    for function in (inspect_adapter, verify_adapter):
        with suppress(PrunedLoRAError):
            function(adapter)


def _adapts_parameters(adapter: Path) -> bool:
    if adapter.is_file():
        return False
    config = json.loads((adapter / "adapter_config.json").read_text())
    return bool(config.get("target_parameters"))


def _other_ranks(
    ranks: dict[str, int], before: dict[str, int], settings: dict[str, Any]
) -> str | None:
    """A module that has more components than were asked for."""
    if "rank" not in settings or settings.get("scope") == "global":
        return None
    most = max(settings["rank"], settings.get("conv_rank", 1))
    found = [name for name, rank in ranks.items() if not 1 <= rank <= min(most, before[name])]
    return f"{found[0]} has rank {ranks[found[0]]}" if found else None


def _judged(error: PrunedLoRAError, place: Path, adapter: Path) -> str:
    text = str(error)
    if "\n" in text or len(text) > 2000 or not text.isprintable():
        return f"WRONG: a message of several lines or odd letters: {text[:200]!r}"
    left = [file.name for file in place.iterdir() if file.name not in (adapter.name, "initial")]
    if left:
        return f"WRONG: {left} left behind"
    return type(error).__name__


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TookTooLongError

    old = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)


def _reset_peak() -> int:
    """Start measuring the memory in use, where Linux can; what is in use now, bytes."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """Most memory in use since `_reset_peak`; elsewhere than on Linux since the process began."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, LookupError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _code() -> str:
    """A hash of all that decides what comes of a file: the library, these tests, versions of packages."""
    library = [p for p in (ROOT / "prunedlora").rglob("*.py") if p.parent.name not in _APART]
    files = sorted(library) + [Path(__file__).with_name(f"{name}.py") for name in _TESTS]
    digest = hashlib.sha256(json.dumps(provenance()["packages"]).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _resumed(journal: Path, first: int, code: str) -> list[Tried]:
    """What was tried before by the same code from the same number on; else the journal begins anew."""
    start: dict[str, Any] = {"code": code, "first": first}
    try:
        lines = journal.read_text().splitlines()
        if json.loads(lines[0]) == start:
            # The last line of a run that was killed may be cut.
            whole = lines[1:] if journal.read_text().endswith("\n") else lines[1:-1]
            journal.write_text("\n".join([lines[0], *whole]) + "\n")
            return [Tried(**json.loads(line)) for line in whole]
    except (OSError, LookupError, ValueError):
        pass
    journal.parent.mkdir(parents=True, exist_ok=True)
    journal.write_text(json.dumps(start) + "\n")
    return []


def run(first: int, count: int, journal: Path) -> list[Tried]:
    """Try all files from a number on that the journal does not have; progress goes to stderr."""
    tried = _resumed(journal, first, _code())[:count]
    done, start, told = len(tried), time.monotonic(), time.monotonic()
    with journal.open("a") as lines:
        for seed in range(first + done, first + count):
            # What waits, or is stuck outside of Python, hears no alarm.
            faulthandler.dump_traceback_later(60 * SECONDS, exit=True, file=sys.__stderr__)
            place = Path(tempfile.mkdtemp())
            try:
                tried.append(try_one(seed, place))
            finally:
                shutil.rmtree(place)
            lines.write(json.dumps(asdict(tried[-1])) + "\n")
            if tried[-1].outcome.startswith("WRONG"):
                sys.stderr.write(f"{tried[-1]}\n")
            if time.monotonic() - told > 20:
                told = time.monotonic()
                pace = (len(tried) - done) / (told - start)
                left = (count - len(tried)) / pace / 60
                sys.stderr.write(
                    f"{len(tried)} of {count}, {pace:.0f} a second, {left:.0f} minutes left\n"
                )
                lines.flush()
    faulthandler.cancel_dump_traceback_later()
    return tried


def summary(tried: Sequence[Tried]) -> dict[str, Any]:
    """What is committed: counts by outcome, kind and damage, and the worst of all files."""
    slowest = max(tried, key=lambda item: item.seconds)
    largest = max(tried, key=lambda item: item.megabytes)
    return {
        "files": len(tried),
        "first": tried[0].seed,
        "outcomes": _counted(tried),
        "wrong": [asdict(item) for item in tried if item.outcome.startswith("WRONG")][:20],
        "kinds": {kind: _counted([t for t in tried if t.kind == kind]) for kind in KINDS},
        "damages": dict(sorted(Counter(way for item in tried for way in item.ways).items())),
        "undamaged": _counted([item for item in tried if not item.ways]),
        "limits": {"seconds": SECONDS, "megabytes": MEMORY / 1e6},
        "seconds": round(sum(item.seconds for item in tried)),
        "most seconds": {"value": slowest.seconds, "seed": slowest.seed, "ways": slowest.ways},
        "most megabytes": {"value": largest.megabytes, "seed": largest.seed, "ways": largest.ways},
        "environment": provenance(),
    }


def _counted(tried: Sequence[Tried]) -> dict[str, int]:
    return dict(Counter(item.outcome.partition(":")[0] for item in tried).most_common())


def main() -> int:
    """Try many and write what came of them; the status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000, help="how many files")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--journal", type=Path, default=JOURNAL, help="what was tried so far")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the counts go")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    try_one(0, Path(tempfile.mkdtemp()))  # imports are of no file
    address_space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (address_space + _SPARE, resource.RLIM_INFINITY))
    result = summary(run(arguments.first, arguments.count, arguments.journal))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(f"{result['files']} files: {result['outcomes']}\n")
    return int("WRONG" in result["outcomes"])


if __name__ == "__main__":
    sys.exit(main())
