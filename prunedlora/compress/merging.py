"""Several adapters of one base model as one, of whatever rank."""

import math
from collections.abc import Sequence
from pathlib import Path

from prunedlora.compress.compression import compress_opened
from prunedlora.compress.config import CompressConfig
from prunedlora.compress.output import check_output
from prunedlora.compress.report import CompressReport
from prunedlora.compress.sums import merged
from prunedlora.errors import ConfigurationError


def merge_adapters(
    adapters: Sequence[str | Path],
    out: str | Path,
    config: CompressConfig,
    weights: Sequence[float] | None = None,
) -> CompressReport:
    """Write the weighted sum of adapters as one of lower rank: the best there is, as by a dense SVD of the sum.

    The products are never formed: the factors of all adapters side by side are those of the sum, and
    are compressed as those of one adapter are.  A rank of all ranks together keeps the sum exactly.

    Args:
        adapters: two or more of one base model and one format, see
            `prunedlora.files.adapter_file.open_adapter`; a module may be missing in some.
        out: see `prunedlora.compress_adapter`; the format is that of the first adapter.
        config: how far and how; no data.
        weights: one for each adapter; 1 by default.

    Raises:
        ConfigurationError: fewer than two adapters, data, weights that do not fit, or adapters with no
            module in common, of other formats or of other base models.
        AdapterFileError: modules of other shapes.
        UnsupportedAdapterError: tensors that are not factors and differ, so that they have no sum here.
        Whatever else `prunedlora.compress_adapter` raises.

    >>> import tempfile
    >>> import torch
    >>> from safetensors.torch import save_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     files = [Path(folder) / "a.safetensors", Path(folder) / "b.safetensors"]
    ...     for file in files:
    ...         save_file({"x.lora_A.weight": torch.eye(4)[:2], "x.lora_B.weight": torch.ones(3, 2)}, file)
    ...     merge_adapters(files, Path(folder) / "c.safetensors", CompressConfig(rank=1)).relative_error < 1e-6
    True
    """
    weights = [1.0] * len(adapters) if weights is None else [float(weight) for weight in weights]
    if len(adapters) < 2:
        raise ConfigurationError("name at least two adapters to merge")
    if len(weights) != len(adapters) or not all(map(math.isfinite, weights)):
        raise ConfigurationError("merging needs one finite weight for each adapter")
    if config.data is not None:
        raise ConfigurationError("merging takes no data; compress the merged adapter with data")
    source = merged(adapters, weights)
    for part, _ in source.parts:
        check_output(part, Path(out))
    return compress_opened(source, Path(out), config)
