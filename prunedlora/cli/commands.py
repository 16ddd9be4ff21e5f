"""The subcommands of ``prunedlora``; each calls one function of the library."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from prunedlora.choices import ReaderName
from prunedlora.cli.output import print_text
from prunedlora.cli.parsing import (
    parse_options,
    parse_shape,
    parse_share,
    parse_size,
    parse_weighted,
)
from prunedlora.compress.config import CompressConfig
from prunedlora.compress.report import CompressReport
from prunedlora.errors import ConfigurationError, PrunedLoRAError


def _typed(metavar: str, parse: Callable[[str], Any]) -> PrimitiveConstructorSpec[Any]:
    """How a single value is read from the command line; `metavar` stands for it in the help."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda texts: parse(texts[0]),
        is_instance=lambda _: True,
        str_from_instance=lambda value: [str(value)],
    )


_OPTIONS: PrimitiveConstructorSpec[Any] = PrimitiveConstructorSpec(
    nargs="*",
    metavar="[NAME=VALUE ...]",
    instance_from_str=parse_options,
    is_instance=lambda _: True,
    str_from_instance=lambda options: [f"{k}={v}" for k, v in options.items()] or ["none"],
)


_ADAPTERS_AND_OUT = tyro.conf.arg(metavar="ADAPTER [ADAPTER ...] OUT")


@dataclass(frozen=True)
class Settings(CompressConfig):
    """`CompressConfig`, some of whose settings are typed or named in a way of their own."""

    max_loss_increase: Annotated[float | None, _typed("SHARE", parse_share)] = None
    size: Annotated[int | None, _typed("SIZE", parse_size)] = None
    options: Annotated[Mapping[str, Any], _OPTIONS] = field(default_factory=dict)
    reader: Annotated[ReaderName | None, tyro.conf.arg(name="for")] = None  # no name in Python


@dataclass(frozen=True)
class Compress:
    """Lower the rank of a trained adapter, or of several.

    The adapter is never changed. Say how far by one of rank, energy, max-loss-increase and size.

    Example: prunedlora compress my-adapter small-adapter --rank 16

    Attributes:
        paths: PEFT folder or safetensors file, here or on the hub (organisation/name[@revision]), or
            several; last where to write: a new folder, or a new .safetensors file if the adapter is a
            file alone; with several adapters a folder for all of them, each under its own name.
        config: everything else.
        initial: the adapter as it was before training, where it was initialised by PiSSA, OLoRA, CorDA
            or LoRA-GA; the result is plain LoRA, exact at twice the rank.
        verbose: also print what became of each module.
    """

    paths: Annotated[tuple[str, ...], _ADAPTERS_AND_OUT]
    config: Annotated[Settings, tyro.conf.arg(name="")]
    initial: str | None = None
    verbose: bool = False

    def run(self) -> int:
        """Do it and print the report; with several adapters, a line for each, and 1 if one failed."""
        from prunedlora.cli.tables import modules_text, summary_line
        from prunedlora.compress.compression import compress_adapter
        from prunedlora.compress.several import compress_adapters

        adapters, out = _adapters_and_out(self.paths)
        if len(adapters) == 1:
            report = compress_adapter(adapters[0], out, self.config, initial=self.initial)
            _print_report(report, self.verbose)
            return 0
        if self.initial is not None:
            raise ConfigurationError("an initial adapter is that of one adapter; compress it alone")
        failed = 0
        for name, result in compress_adapters(adapters, out, self.config):
            failed += isinstance(result, PrunedLoRAError)
            print_text(f"{name}: {summary_line(result)}")
            if self.verbose and not isinstance(result, PrunedLoRAError):
                print_text(modules_text(result) + "\n")
        return int(failed > 0)


@dataclass(frozen=True)
class Merge:
    """Merge several adapters of one base model into one, the best of its rank.

    The adapters are never changed. Say how far by one of rank, energy and size.

    Example: prunedlora merge my-adapter:0.7 other-adapter:0.3 merged-adapter --rank 16

    Attributes:
        paths: PEFT folders or safetensors files, each with its weight behind a colon (by default 1);
            last where to write, in the format of the first.
        config: everything else.
        verbose: also print what became of each module.
    """

    paths: Annotated[tuple[str, ...], _ADAPTERS_AND_OUT]
    config: Annotated[Settings, tyro.conf.arg(name="")]
    verbose: bool = False

    def run(self) -> int:
        """Do it and print the report."""
        from prunedlora.compress.merging import merge_adapters

        adapters, out = _adapters_and_out(self.paths)
        pairs = [(t, 1.0) if Path(t).exists() else parse_weighted(t) for t in adapters]
        names, weights = [name for name, _ in pairs], [weight for _, weight in pairs]
        _print_report(merge_adapters(names, out, self.config, weights), self.verbose)
        return 0


@dataclass(frozen=True)
class Extract:
    """Turn LoHa, LoKr, full differences, or what tuning changed in a model, into LoRA.

    Example: prunedlora extract loha.safetensors lora.safetensors --rank 8

    Attributes:
        source: safetensors file with LoHa, LoKr or .diff tensors, or PEFT folder of LoHa or LoKr, here
            or on the hub (organisation/name[@revision]); with minus a tuned model, a file or a folder.
        out: where to write; a new .safetensors file, of a folder or with minus a new PEFT folder.
        config: everything else.
        minus: the model that was tuned, a file or a folder.
        verbose: also print what became of each module.
    """

    source: str
    out: Path
    config: Annotated[Settings, tyro.conf.arg(name="")]
    minus: Path | None = None
    verbose: bool = False

    def run(self) -> int:
        """Do it and print the report."""
        from prunedlora.compress.extraction import extract_adapter

        _print_report(extract_adapter(self.source, self.out, self.config, self.minus), self.verbose)
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
        from prunedlora.cli.plots import check_picture, draw_inspection
        from prunedlora.cli.tables import inspection_text
        from prunedlora.files.inspection import inspect_adapter

        if self.picture is not None:
            check_picture(self.picture)
        inspection = inspect_adapter(self.adapter)
        if self.picture is not None:
            draw_inspection(inspection, self.picture)
        print_text(inspection.to_json() if self.json else inspection_text(inspection))
        return 0


@dataclass(frozen=True)
class Verify:
    """Check an adapter's file, and what PEFT, vLLM and llama.cpp each make of it.

    Example: prunedlora verify my-adapter

    Attributes:
        adapter: PEFT folder or safetensors file, here or on the hub (organisation/name[@revision]).
        base: base model; with it, the weights are loaded and compared, and the adapter's effect
            measured.
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
        print_text(verification.to_json() if self.json else verification_text(verification))
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
        print_text(comparison_text(compare(model, self.target_rank, (1, self.repeats))))
        return 0


def _adapters_and_out(paths: Sequence[str]) -> tuple[Sequence[str], Path]:
    """Adapters, and behind them where to write.

    Raises:
        ConfigurationError: one of them is missing.
    """
    if len(paths) < 2:
        raise ConfigurationError("name an adapter, and behind it OUT, where to write")
    return paths[:-1], Path(paths[-1])


def _print_report(report: CompressReport, verbose: bool) -> None:
    from prunedlora.cli.tables import modules_text, report_text

    print_text(report_text(report))
    if verbose:
        print_text("\n" + modules_text(report))


def parse(arguments: Sequence[str]) -> Compress | Merge | Extract | Inspect | Verify | Bench:
    """The subcommand of a command line.

    Raises:
        SystemExit: a wrong command line, which is explained on stderr (status 2), or one that asks
            for help (0).
        ConfigurationError: settings that contradict each other.
    """
    command: Any = tyro.extras.subcommand_cli_from_dict(
        {c.__name__.lower(): c for c in (Compress, Merge, Extract, Inspect, Verify, Bench)},
        prog="prunedlora",
        description="Lower the rank of trained LoRA adapters, look into them, and check that they "
        "load right.\n\n"
        "Example: prunedlora compress my-adapter small-adapter --rank 16\n\n"
        "prunedlora --version says which version this is.",
        args=arguments,
        config=(
            tyro.conf.PositionalRequiredArgs,
            tyro.conf.PositionalMetavarFromFieldName,
            tyro.conf.DisallowNone,
        ),
    )
    return command
