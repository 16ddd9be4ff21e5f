"""Does an adapter load right, and does every reader make the same of it?"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from prunedlora.adapters.modules import find_lora_modules
from prunedlora.adapters.peft import name_in_base
from prunedlora.files.adapter_file import AdapterFile, open_adapter
from prunedlora.files.readers import Reading, readings

#: Largest difference allowed between the weights that PEFT adds and s B A, relative to the largest.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        passed: whether it is as it must be.
        detail: the evidence, in words.
    """

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Verification:
    """Outcome of `verify_adapter`.

    Attributes:
        adapter: as named.
        checks: everything that must hold.
        readings: what each reader makes of the scalings; other readers than PEFT may differ.
    """

    adapter: str
    checks: tuple[Check, ...]
    readings: tuple[Reading, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def to_json(self) -> str:
        """Everything as a JSON object."""
        readings = [{**asdict(row), "outcome": row.outcome} for row in self.readings]
        everything = {**asdict(self), "readings": readings, "passed": self.passed}
        return json.dumps(everything, indent=1) + "\n"


def verify_adapter(
    adapter: str | Path, base: str | None = None, *, device: str = "auto"
) -> Verification:
    """Check an adapter's file, and what each reader makes of its scalings.

    With a base model, also that PEFT adds the expected weights to it and that they have an effect.

    Args:
        adapter: see `prunedlora.files.adapter_file.open_adapter`.
        base: the base model, a folder or a name on the hub.
        device: for the base model.

    Raises:
        AdapterFileError, UnsupportedAdapterError, NonFiniteError: the file itself is bad; nothing
            else can be checked.
        ConfigurationError: the base model cannot be loaded, or the adapter does not fit it.
        MissingPackageError: a base model, and transformers is not installed.

    >>> import tempfile
    >>> from safetensors.torch import save_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "x.safetensors"
    ...     B, A = torch.ones(3, 2), torch.ones(2, 4)
    ...     save_file({"x.lora_down.weight": A, "x.lora_up.weight": B}, file)
    ...     verify_adapter(file).passed
    True
    """
    source = open_adapter(adapter)
    # The first three hold where the file could be opened at all.
    tensors = f"{len(source.header.tensors)} tensors, no gap, no overlap, nothing pickled"
    keys = f"{len(source.modules)} pairs of factors, {len(source.others)} other tensors"
    checks = [
        Check("file", True, tensors),
        Check("keys", True, keys),
        Check("ranks", True, _ranks(source)),
        _values(source),
    ]
    if base is not None:
        checks += _with_base(source, base, device)
    return Verification(source.source, tuple(checks), tuple(readings(source)))


def _ranks(source: AdapterFile) -> str:
    ranks = sorted({module.rank for module in source.modules})
    known = (
        "r and rank_pattern agree with the tensors" if source.config else "read from the tensors"
    )
    return f"{', '.join(map(str, ranks))}; {known}"


def _values(source: AdapterFile) -> Check:
    """All values are finite (or reading raises), and some module adds something."""
    source.carried()
    dead = [m.name for m, f in source.factors() if not (m.scaling and f.B.any() and f.A.any())]
    alive = len(source.modules) - len(dead)
    return Check(
        "values", alive > 0, f"all finite; {alive} of {len(source.modules)} modules add something"
    )


@torch.no_grad()
def _with_base(source: AdapterFile, base: str, device: str) -> list[Check]:
    from prunedlora.compress.base_model import load_with_adapter

    model = load_with_adapter(source, base, device)[0].float().eval()
    loaded = {name_in_base(module.name): module for module in find_lora_modules(model)}
    worst = 0.0
    for module, factors in source.factors():
        expected = module.scaling * (factors.B.double() @ factors.A.double())
        in_model = loaded[module.name]
        delta = in_model.layer.get_delta_weight(in_model.adapter).cpu().double()
        if delta.shape != expected.shape:  # layers such as GPT-2's hold their weight transposed
            delta = delta.mT
        scale = max(float(expected.abs().max()), torch.finfo(torch.float32).tiny)
        worst = max(worst, float((delta - expected).abs().max()) / scale)
    detail = f"PEFT's weights differ from s B A by {worst:.1e} at most, relative"
    return [Check("loaded weights", worst <= TOLERANCE, detail), _effect(model)]


def _effect(model: Any) -> Check:
    """The outputs for a few tokens change when the adapter is switched off."""
    device = next(model.parameters()).device
    vocabulary = model.get_input_embeddings().weight.shape[0]
    tokens = torch.arange(1, 9, device=device).unsqueeze(0) % vocabulary
    inputs = {"input_ids": tokens}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens
    with_adapter = _outputs(model, inputs)
    with model.disable_adapter():
        without = _outputs(model, inputs)
    difference = float((with_adapter - without).abs().max())
    return Check("effect", difference > 0, f"outputs change by {difference:.3g} at most")


def _outputs(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The first output: logits, or the last hidden state of a model without a head."""
    output: torch.Tensor = model(**inputs).to_tuple()[0]
    return output
