"""What compressing an adapter did."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class CompressReport:
    """What was done; written as ``pruning_report.json``.

    Attributes:
        adapter: the adapter, as it was named.
        version: of prunedlora.
        settings: all of them, defaults filled in.
        ranks_before: rank of each module.
        ranks: rank of each module as chosen, without padding.
        excluded: modules left out.
        carried: tensors that are not factors of LoRA and are the same in the new file.
        warnings: what to know about the new file, sentences.
        relative_error: ``||dW - dW'||_F / ||dW||_F`` over all modules, of what was written.
        relative_errors: of each module.
        bytes_before: size of the weights' file.
        bytes_after: the same of the new file.
        loss_before: held-out loss, nats per token; None without data.
        loss_cut: the same after the cut, before anything was refined.
        loss: the same of the new adapter.
        seconds: time taken, without loading model and data.
    """

    adapter: str
    version: str
    settings: Mapping[str, Any]
    ranks_before: Mapping[str, int]
    ranks: Mapping[str, int]
    excluded: list[str]
    relative_error: float
    relative_errors: Mapping[str, float]
    bytes_before: int
    bytes_after: int
    loss_before: float | None
    loss_cut: float | None
    loss: float | None
    seconds: float
    carried: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """The report as a JSON object."""
        return json.dumps(asdict(self), indent=2) + "\n"
