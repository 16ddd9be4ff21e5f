"""The command ``prunedlora``; each subcommand is a dataclass, each does what one function of the library does."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prunedlora.choices import DtypeName, Layout
from prunedlora.cli.parsing import parse_shape, parse_share, parse_size
from prunedlora.errors import PrunedLoRAError
from prunedlora.optional import require


@dataclass(frozen=True)
class Compress:
    """Lower the rank of a trained adapter.

    The adapter is never changed. Say how far by one of rank, energy, max-loss-increase and size.

    Example: prunedlora compress my-adapter small-adapter --rank 16

    Attributes:
        adapter: PEFT folder or safetensors file, here or on the hub (organisation/name[@revision]).
        out: where to write; a new folder, or a new .safetensors file if the adapter is a file alone.
        rank: rank of every module; with global scope their mean.
        energy: share of the squared singular values to keep, e.g. 0.95.
        max_loss_increase: largest increase of the held-out loss, e.g. 1%; needs base and data.
        size: largest size of the weights, e.g. 20MB.
        criterion: what decides; svd without data, svd_fisher with data, or another that is registered.
        base: base model, a folder or a name on the hub.
        data: examples, a .jsonl file or a data set on the hub.
        samples: how many examples to use; one in four is held out.
        scope: module, or global for one budget over all modules.
        layout: uniform: one rank, every reader agrees; ragged: a rank for each module; padded: ragged with zeros.
        dtype: of the result; that of the adapter by default.
        device: for the base model.
        zero_modules: keep at rank 1, or exclude, a module that would be left without components.
        seed: of the choice of examples.
    """

    adapter: str
    out: Path
    rank: int | None = None
    energy: float | None = None
    max_loss_increase: str | None = None
    size: str | None = None
    criterion: str | None = None
    base: str | None = None
    data: str | None = None
    samples: int = 256
    scope: Literal["module", "global"] | None = None
    layout: Layout | None = None
    dtype: DtypeName | None = None
    device: str = "auto"
    zero_modules: Literal["keep", "exclude"] = "keep"
    seed: int = 0

    def run(self) -> int:
        """Do it and print the report."""
        from prunedlora.cli.tables import report_text
        from prunedlora.compress.compression import compress_adapter
        from prunedlora.compress.config import CompressConfig

        values = {k: v for k, v in vars(self).items() if k not in ("adapter", "out", "size", "max_loss_increase")}
        config = CompressConfig(
            **values,
            size=None if self.size is None else parse_size(self.size),
            max_loss_increase=None if self.max_loss_increase is None else parse_share(self.max_loss_increase),
        )
        _print(report_text(compress_adapter(self.adapter, self.out, config)))
        return 0


@dataclass(frozen=True)
class Inspect:
    """Show rank, spectrum and energy of each module of an adapter.

    Example: prunedlora inspect my-adapter --picture spectrum.png

    Attributes:
        adapter: PEFT folder or safetensors file, here or on the hub (organisation/name[@revision]).
        json: print JSON in place of a table.
        picture: also draw the spectrum and the suggested ranks into this file.
    """

    adapter: str
    json: bool = False
    picture: Path | None = None

    def run(self) -> int:
        """Do it and print it."""
        from prunedlora.cli.plots import draw_inspection
        from prunedlora.cli.tables import inspection_text
        from prunedlora.files.inspection import inspect_adapter

        inspection = inspect_adapter(self.adapter)
        if self.picture is not None:
            draw_inspection(inspection, self.picture)
        _print(inspection.to_json() if self.json else inspection_text(inspection))
        return 0


@dataclass(frozen=True)
class Verify:
    """Check an adapter's file, and what PEFT, vLLM and llama.cpp each make of it.

    Example: prunedlora verify my-adapter

    Attributes:
        adapter: PEFT folder or safetensors file, here or on the hub (organisation/name[@revision]).
        base: base model; with it, the weights are loaded and compared, and the adapter's effect measured.
        device: for the base model.
        json: print JSON in place of tables.
    """

    adapter: str
    base: str | None = None
    device: str = "auto"
    json: bool = False

    def run(self) -> int:
        """Do it; 1 if a check fails."""
        from prunedlora.cli.tables import verification_text
        from prunedlora.compress.verification import verify_adapter

        verification = verify_adapter(self.adapter, self.base, device=self.device)
        _print(verification.to_json() if self.json else verification_text(verification))
        return 0 if verification.passed else 1


@dataclass(frozen=True)
class Bench:
    """Time the factors' decomposition against PEFT's dense one, on random adapters.

    Example: prunedlora bench --shapes 256x256 --rank 16 --target-rank 4

    Attributes:
        shapes: outputs x inputs of each module.
        rank: rank of the adapters.
        target_rank: rank to lower them to.
        repeats: how often each method is timed, taking turns; the median is shown.
    """

    shapes: tuple[str, ...] = ("1024x1024",)
    rank: int = 64
    target_rank: int = 16
    repeats: int = 3

    def run(self) -> int:
        """Do it and print it."""
        from prunedlora.cli.tables import comparison_text
        from prunedlora.compress.benchmark import compare, random_adapter

        model = random_adapter([parse_shape(text) for text in self.shapes], self.rank)
        _print(comparison_text(compare(model, self.target_rank, (1, self.repeats))))
        return 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line; a bad one, or bad input, is one line on stderr and a status that is not 0."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        sys.exit(_parsed(arguments).run())
    except PrunedLoRAError as error:
        sys.exit(f"error: {error}")


def _parsed(arguments: Sequence[str] | None) -> Any:
    """The subcommand; raises MissingPackageError without tyro, SystemExit at a bad command line or for help."""
    tyro = require("tyro")
    return tyro.extras.subcommand_cli_from_dict(
        {command.__name__.lower(): command for command in (Compress, Inspect, Verify, Bench)},
        prog="prunedlora",
        description="Lower the rank of trained LoRA adapters, look into them, and check that they load right.\n\n"
        "Example: prunedlora compress my-adapter small-adapter --rank 16",
        args=arguments,
        config=(tyro.conf.PositionalRequiredArgs,),
    )


def _print(text: str) -> None:
    sys.stdout.write(text.rstrip("\n") + "\n")
