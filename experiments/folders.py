"""Where things lie in the repository."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
#: Committed results, a folder for each preset.
RESULTS = EXPERIMENTS / "results"
#: Trained adapters and what else a run leaves besides its result; not committed.
ARTIFACTS = EXPERIMENTS / "artifacts"
#: Drawn figures, a folder for each preset.
FIGURES = ROOT / "paper_figures"
