"""Where things lie in the repository."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
#: Committed results, a folder for each preset: the reference, written only by ``--update-reference``.
RESULTS = EXPERIMENTS / "results"
#: Results of whoever runs something here, a folder for each preset; not committed.
RUNS = EXPERIMENTS / "runs"
#: Trained adapters, logs and what else a run leaves besides its result; not committed.
ARTIFACTS = EXPERIMENTS / "artifacts"
#: Committed figures, a folder for each preset.
FIGURES = ROOT / "paper_figures"


@dataclass(frozen=True)
class Places:
    """Where a preset reads and writes.

    Attributes:
        results: folder of the results and tables that are written.
        figures: folder of the figures that are written.
        page: the report that is written.
        reference: committed results, which are read and never written; none where they are what is written.
    """

    results: Path
    figures: Path
    page: Path
    reference: Path | None


def places(preset: str, update_reference: bool = False) -> Places:
    """Where a preset reads and writes: in `RUNS`, or in what is committed where that is asked for."""
    if update_reference:
        return Places(RESULTS / preset, FIGURES / preset, EXPERIMENTS / "report.html", None)
    own = RUNS / preset
    return Places(own, own / "figures", own / "report.html", RESULTS / preset)
