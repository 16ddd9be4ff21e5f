"""Several adapters in one call, each for itself."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from prunedlora.compress.compression import compress_adapter
from prunedlora.compress.config import CompressConfig
from prunedlora.compress.report import CompressReport
from prunedlora.errors import ConfigurationError, OutputError, PrunedLoRAError


def compress_adapters(
    adapters: Sequence[str | Path], folder: str | Path, config: CompressConfig
) -> Iterator[tuple[str, CompressReport | PrunedLoRAError]]:
    """Compress each adapter into a folder, under its own name; what fails stops none of the others.

    Args:
        adapters: see `prunedlora.files.adapter_file.open_adapter`.
        folder: where the new ones go; it may exist, the new ones may not.
        config: the same for all.

    Yields:
        The name of each and its report, or what is wrong with it, as soon as it is known.

    Raises:
        ConfigurationError: two adapters of one name; nothing is read.
        OutputError: `folder` is a file.

    >>> import tempfile, torch
    >>> from safetensors.torch import save_file
    >>> with tempfile.TemporaryDirectory() as place:
    ...     files = [Path(place) / "a.safetensors", Path(place) / "missing.safetensors"]
    ...     save_file({"x.lora_A.weight": torch.eye(4), "x.lora_B.weight": torch.eye(4)}, files[0])
    ...     done = dict(compress_adapters(files, Path(place) / "out", CompressConfig(rank=1)))
    >>> done["a.safetensors"].ranks, type(done["missing.safetensors"]).__name__
    ({'x': 1}, 'AdapterFileError')
    """
    names = [_name(adapter) for adapter in adapters]
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise ConfigurationError(
            f"{count} adapters are called {name}, so that they would be written to one place; "
            "compress them in calls of their own"
        )
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; with several adapters, name a folder for all")
    return _each(list(zip(names, adapters, strict=True)), folder, config)


def _each(
    adapters: list[tuple[str, str | Path]], folder: Path, config: CompressConfig
) -> Iterator[tuple[str, CompressReport | PrunedLoRAError]]:
    for name, adapter in adapters:
        try:
            yield name, compress_adapter(adapter, folder / name, config)
        except PrunedLoRAError as error:
            yield name, error


def _name(adapter: str | Path) -> str:
    """What an adapter is called: the end of its path, or of its name on the hub."""
    path = Path(adapter)
    name = path.resolve().name if path.exists() else path.name.partition("@")[0]
    return name or str(adapter)
