"""Plot of an adapter's spectra and suggested ranks."""

from pathlib import Path

from prunedlora.errors import ConfigurationError
from prunedlora.files.inspection import ENERGIES, Inspection
from prunedlora.files.writing import check_free, publish_file, scratch_beside
from prunedlora.optional import require


def check_picture(file: Path) -> None:
    """Refuse a file that exists already or whose ending is not one of a picture.

    Raises:
        MissingPackageError: matplotlib is not installed.
        ConfigurationError: the ending.
        OutputError: it exists.
    """
    figure = require("matplotlib.figure").Figure()
    known = figure.canvas.get_supported_filetypes()
    if file.suffix.removeprefix(".").lower() not in known:
        raise ConfigurationError(
            f"{file} does not end as a picture does; use one of {', '.join(sorted(known))}"
        )
    check_free(file)


def draw_inspection(inspection: Inspection, file: Path) -> None:
    """Draw the spectrum of every module, and the ranks that keep a share of its energy.

    Args:
        inspection: what to draw.
        file: where to; its ending says the format, e.g. ``.png``.

    Raises:
        MissingPackageError: matplotlib is not installed.
        ConfigurationError, OutputError: see `check_picture`; also if it cannot be written.
    """
    require("matplotlib").use("Agg")
    plt = require("matplotlib.pyplot")
    check_picture(file)
    # Left: all spectra, each as a share of its norm; the more modules, the fainter.
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for module in inspection.modules:
        total = sum(value**2 for value in module.singular_values) ** 0.5 or 1.0
        shares = [max(value / total, 1e-12) for value in module.singular_values]
        left.plot(
            range(1, module.rank + 1),
            shares,
            color="C0",
            alpha=max(0.1, 1 / len(inspection.modules)),
        )
    left.set(
        yscale="log",
        xlabel="component",
        ylabel="singular value / norm",
        title="spectrum of each module",
    )
    # Right: for each share of energy, how many modules need which rank.
    for share in ENERGIES:
        ranks = sorted(module.rank_for_energy[f"{share:g}"] for module in inspection.modules)
        right.step(range(1, len(ranks) + 1), ranks, where="mid", label=f"{share:.0%} of the energy")
    right.set(xlabel="modules, sorted", ylabel="rank", title="suggested ranks")
    right.legend()
    with scratch_beside(file) as part:
        figure.savefig(part / file.name)
        publish_file(part / file.name, file)
    plt.close(figure)
