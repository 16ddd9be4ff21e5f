"""Compressing a trained adapter, from file to file."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from prunedlora.choices import Scope
from prunedlora.compress.calibration import Calibration, load_calibration
from prunedlora.compress.config import CompressConfig
from prunedlora.compress.devices import chosen_device
from prunedlora.compress.modules import (
    TORCH_DTYPES,
    CompressedModule,
    compress_modules,
    excluded,
    refined_modules,
    score_all,
)
from prunedlora.compress.output import check_output, write_output
from prunedlora.compress.report import CompressReport
from prunedlora.compress.sums import difference
from prunedlora.errors import ConfigurationError
from prunedlora.factors import Scaled
from prunedlora.files.adapter_file import AdapterFile, open_adapter
from prunedlora.files.readers import get_reader
from prunedlora.optional import installed_version
from prunedlora.ranks.spectrum import RULES
from prunedlora.ranks.targets import by_parameters, by_rank, by_spectrum, by_total
from prunedlora.statistics.data import Statistics

logger = logging.getLogger(__name__)
#: Bytes allowed for the header of the written file: for each tensor beside its name.
_HEADER_PER_TENSOR = 128
#: The same for the metadata.
_HEADER = 8192


def compress_adapter(
    adapter: str | Path,
    out: str | Path,
    config: CompressConfig,
    *,
    initial: str | Path | None = None,
) -> CompressReport:
    """Write the adapter at a lower rank; the old one is not touched.

    Without data, one module at a time is read and decomposed through its factors, so that memory
    beyond the new tensors is that of the largest module.  With data, the base model is loaded,
    statistics are collected on three quarters of the examples, all modules of a shape are reduced
    together on the model's device, and the loss before and after is that on the other examples.

    Args:
        adapter: see `prunedlora.files.adapter_file.open_adapter`.
        out: a new folder for a PEFT adapter, a new ``.safetensors`` file for a file alone.
        config: how far, by what and how.
        initial: the adapter as it was before training, where its initialisation took its own start
            from the base model (PiSSA, OLoRA, CorDA, LoRA-GA). Then what is compressed is what
            training added, see `prunedlora.compress.sums.difference`: plain LoRA for the base model
            as it was, which twice the rank holds in full.

    Returns:
        The report, which is also written beside the weights.

    Raises:
        AdapterFileError, UnsupportedAdapterError: see
            `prunedlora.files.adapter_file.open_adapter`.
        ConfigurationError: a rank or a size that cannot be reached, a base model, data or an
            initial adapter that does not fit, data beside an initial adapter, or a reader that
            would not load the result right.
        NonFiniteError, SingularCurvatureError: numbers on which no decision can be based; the
            message names the module.
        OutputError: `out` exists, cannot be written, or differs from memory once written.  Nothing
            is left behind.

    >>> import tempfile, torch
    >>> from safetensors.torch import save_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "x.safetensors"
    ...     save_file({"x.lora_down.weight": torch.eye(4), "x.lora_up.weight": torch.eye(4)}, file)
    ...     small = Path(folder) / "small.safetensors"
    ...     compress_adapter(file, small, CompressConfig(rank=1)).ranks
    {'x': 1}
    """
    if initial is None:
        return compress_opened(open_adapter(adapter), Path(out), config)
    if config.data is not None:
        raise ConfigurationError(
            "data go with one adapter; leave them out, and compress the result with data"
        )
    source = difference(adapter, initial)
    for part, _ in source.parts:
        check_output(part, Path(out))
    return compress_opened(source, Path(out), config)


def compress_opened(source: AdapterFile, out: Path, config: CompressConfig) -> CompressReport:
    """What `compress_adapter` does with an adapter that is open; see there."""
    # Whatever can be refused is refused before a base model is loaded.
    config = _settled(source, config)
    check_output(source, out)
    if config.device != "auto":
        chosen_device(config.device)
    calibration = None
    if config.base is not None and config.data is not None:
        calibration = load_calibration(
            source,
            config.base,
            config.data,
            config.samples,
            device=config.device,
            seed=config.seed,
        )
    start = time.perf_counter()
    measured = calibration.statistics(config.rule, config.seed) if calibration else {}
    before = calibration.loss() if calibration else None
    compressed = _compressed(source, config, measured, calibration, before)
    # The factors are rounded as they will be written, so this is the loss of the written adapter.
    after = calibration.loss_with(_factors(compressed)) if calibration else None
    cut = after
    if calibration and after is not None and config.refine and compressed:
        compressed, after = _refined(source, config, compressed, calibration, after)
    seconds = time.perf_counter() - start
    report = _report(source, config, compressed, (before, cut, after), seconds)
    return write_output(source, out, config, compressed, report)


def _settled(source: AdapterFile, config: CompressConfig) -> CompressConfig:
    """The settings with a layout, and with the steps of rank that the reader wants.

    Raises:
        ConfigurationError: the reader does not load such adapters, or not in that layout.
    """
    if config.reader is None:
        if config.layout is None:
            # Readers of a file alone take rank and alpha of each module; not all those of a folder.
            config = replace(config, layout="ragged" if source.config is None else "uniform")
        return config
    reader = get_reader(config.reader)
    if reader.of_folders != (source.config is not None):
        kinds = ("PEFT folders", "files alone")
        reads, given = kinds if reader.of_folders else kinds[::-1]
        raise ConfigurationError(
            f"{reader.name} reads {reads}, and {source.source} is one of the {given}; name "
            "another reader"
        )
    if config.layout == "ragged" and reader.one_rank:
        raise ConfigurationError(
            f"{reader.name} wants one rank in all modules; use layout 'padded', or leave it out"
        )
    layout = config.layout or ("padded" if reader.one_rank else "ragged")
    step = 1 if config.rank in reader.also else reader.step
    return replace(config, layout=layout, round_to=math.lcm(step, config.round_to))


def _compressed(
    source: AdapterFile,
    config: CompressConfig,
    measured: Mapping[str, Statistics],
    calibration: Calibration | None,
    before: float | None,
) -> list[CompressedModule]:
    if config.max_loss_increase is not None and calibration is not None and before is not None:
        limit = before * (1 + config.max_loss_increase)
        return _within_loss(source, config, measured, calibration, limit)
    ranks = _ranks(source, config, measured)
    # No product has a rank above the smaller of its dimensions, whatever its factors hold.
    ranks = {m.name: min(ranks[m.name], m.full_rank) for m in source.modules}
    return list(compress_modules(source, config, measured, ranks))


def _ranks(
    source: AdapterFile, config: CompressConfig, measured: Mapping[str, Statistics]
) -> dict[str, int]:
    """The ranks that the settings ask for; scores are computed only where they are needed."""
    scope = _scope(config)
    least = _least(config)
    if config.rank is not None and config.spectrum_rule is None and scope == "module":
        ranks = _clipped(source, max(config.rank, config.conv_rank or 1))
        return _capped(source, ranks, config)
    scored = score_all(source, config, measured)
    if config.spectrum_rule is not None:
        ranks = by_spectrum(
            config.rule,
            scored,
            RULES[config.spectrum_rule],
            getattr(config, config.spectrum_rule),
            scope,
            one_rank=config.layout == "uniform",
            min_rank=least,
            round_to=config.round_to,
        )
        return _capped(source, ranks, config)
    if config.rank is not None:
        return by_rank(config.rule, scored, config.rank, scope, least, config.round_to)
    return by_parameters(
        config.rule,
        scored,
        _parameters_that_fit(source, config),
        scope,
        padded=config.layout != "ragged",
        min_rank=least,
        round_to=config.round_to,
    )


def _capped(source: AdapterFile, ranks: dict[str, int], config: CompressConfig) -> dict[str, int]:
    """The ranks, none above the largest that was allowed, which convolutions may have their own of."""
    if config.rank is None:
        return ranks
    conv_rank = config.conv_rank or config.rank
    caps = {m.name: conv_rank if m.is_convolution else config.rank for m in source.modules}
    return {name: min(rank, caps[name]) for name, rank in ranks.items()}


def _within_loss(
    source: AdapterFile,
    config: CompressConfig,
    measured: Mapping[str, Statistics],
    calibration: Calibration,
    limit: float,
) -> list[CompressedModule]:
    """The smallest rank whose held-out loss is within the limit, or with global scope the smallest total of ranks.

    Found by bisection, which assumes that the loss falls as ranks grow.
    """
    steps, ranks_at = _path(source, config, measured)
    compressed_at = _computing_once(source, config, measured)
    low, high = steps[0], steps[-1]
    best = None
    while low <= high:
        middle = (low + high) // 2
        ranks = ranks_at(middle)
        compressed = compressed_at(ranks)
        loss = calibration.loss_with(_factors(compressed))
        mean = sum(ranks.values()) / len(ranks)
        logger.info("rank %.5g: held-out loss %.5f, limit %.5f", mean, loss, limit)
        if loss <= limit:
            best = compressed
            high = middle - 1
        else:
            low = middle + 1
    if best is None:
        raise ConfigurationError(
            "even the full rank exceeds max_loss_increase; raise it, or set dtype='fp32'"
        )
    return best


def _path(
    source: AdapterFile, config: CompressConfig, measured: Mapping[str, Statistics]
) -> tuple[range, Callable[[int], dict[str, int]]]:
    """Numbers of steps of rank, of every module or in all, and the ranks of the modules at each."""
    step = config.round_to
    full = {module.name: module.full_rank for module in source.modules}
    if _scope(config) == "module":
        # With a rank for each module by itself, scores would decide nothing.
        largest = max(module.rank for module in source.modules)
        last = -(-largest // step)
        return range(1, last + 1), lambda steps: {
            name: min(steps * step, largest, most) for name, most in full.items()
        }
    scored = score_all(source, config, measured)
    least = -(-_least(config) // step) * step
    first = -(-sum(min(least, module.rank) for module in scored.values()) // step)
    last = -(-sum(module.rank for module in scored.values()) // step)

    def ranks_at(steps: int) -> dict[str, int]:
        ranks = by_total(config.rule, scored, steps * step, _least(config), step)
        # No product has a rank above the smaller of its dimensions, whatever its factors hold.
        return {name: min(rank, full[name]) for name, rank in ranks.items()}

    return range(max(1, first), last + 1), ranks_at


def _computing_once(
    source: AdapterFile, config: CompressConfig, measured: Mapping[str, Statistics]
) -> Callable[[Mapping[str, int]], list[CompressedModule]]:
    """What `compress_modules` gives for ranks, computed once for each module and rank."""
    done: dict[tuple[str, int], CompressedModule] = {}

    def compressed(ranks: Mapping[str, int]) -> list[CompressedModule]:
        # A module of rank 0 is left out, and so is here what an earlier call has computed.
        new = {name: 0 if (name, rank) in done else rank for name, rank in ranks.items()}
        for item in compress_modules(source, config, measured, new):
            done[item.module.name, ranks[item.module.name]] = item
        pairs = [(module.name, ranks[module.name]) for module in source.modules]
        return [done[pair] for pair in pairs if pair in done]

    return compressed


def _refined(
    source: AdapterFile,
    config: CompressConfig,
    compressed: list[CompressedModule],
    calibration: Calibration,
    loss: float,
) -> tuple[list[CompressedModule], float]:
    """The modules after some training towards the adapter as it was, and their held-out loss.

    They stay as they are where that would be higher.
    """
    factors, found = calibration.refined(_factors(compressed), config.refine)
    logger.info(
        "refined: divergence %.5f, %.5f after %d steps at rate %g",
        found.before,
        found.after,
        found.step,
        found.learning_rate,
    )
    new = refined_modules(source, config, compressed, factors)
    new_loss = calibration.loss_with(_factors(new))
    return (new, new_loss) if new_loss < loss else (compressed, loss)


def _factors(compressed: list[CompressedModule]) -> dict[str, Scaled]:
    return {item.module.name: item.factors for item in compressed}


def _clipped(source: AdapterFile, rank: int) -> dict[str, int]:
    """This rank for every module that has as much."""
    largest = max(module.rank for module in source.modules)
    if rank > largest:
        raise ConfigurationError(f"rank {rank} is above {largest}, the largest rank of the adapter")
    return {module.name: min(rank, module.full_rank) for module in source.modules}


def _parameters_that_fit(source: AdapterFile, config: CompressConfig) -> int:
    """How many numbers the factors may hold so that the whole file keeps to `config.size`."""
    assert config.size is not None
    names = sum(len(key) + _HEADER_PER_TENSOR for key in source.header.tensors)
    metadata = sum(len(k) + len(v) + 8 for k, v in source.header.metadata.items())
    carried = sum(source.header.tensors[key].nbytes for key in source.others)
    alphas = 0
    if source.config is None:
        alphas = sum(8 + len(m.keys.alpha_name) + _HEADER_PER_TENSOR for m in source.modules)
    left = config.size - names - metadata - carried - alphas - _HEADER
    if config.dtype:
        return left // TORCH_DTYPES[config.dtype].itemsize
    return left // max(d.itemsize for m in source.modules for d in (m.dtype_B, m.dtype_A))


def _report(
    source: AdapterFile,
    config: CompressConfig,
    compressed: list[CompressedModule],
    losses: tuple[float | None, float | None, float | None],
    seconds: float,
) -> CompressReport:
    error = sum(item.squared_error for item in compressed)
    norm = sum(item.squared_norm for item in compressed)
    return CompressReport(
        adapter=source.source,
        version=installed_version(),
        settings={**asdict(config), "options": dict(config.options)},
        ranks_before={module.name: module.rank for module in source.modules},
        ranks={item.module.name: item.factors.rank for item in compressed},
        excluded=[*excluded(source, compressed), *source.empty],
        relative_error=_ratio(error, norm),
        relative_errors={
            item.module.name: _ratio(item.squared_error, item.squared_norm) for item in compressed
        },
        bytes_before=source.header.file_size,
        bytes_after=0,  # known once it is written
        loss_before=losses[0],
        loss_cut=losses[1],
        loss=losses[2],
        seconds=round(seconds, 4),
        carried=list(source.others),
    )


def _ratio(error: float, norm: float) -> float:
    return (error / norm) ** 0.5 if norm > 0 else 0.0


def _scope(config: CompressConfig) -> Scope:
    assert config.scope is not None
    return config.scope


def _least(config: CompressConfig) -> int:
    """The smallest rank that a global budget may leave to a module."""
    return 0 if config.zero_modules == "exclude" and config.scope == "global" else 1
