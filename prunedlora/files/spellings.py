"""How files name the two factors of a module: one record for each way, and all of them in one list.

A new way is one more record.  The endings are those that ComfyUI's loader of adapters and the
converters of diffusers read, and those of the trainers named here.
"""

import re
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Spelling:
    """One way to name the tensors of a module.

    In the names ``{module}`` is the path of the module, ``{adapter}`` the name of an adapter, and
    ``{part}`` a number where a module has several pairs of factors.

    Attributes:
        writers: who writes it.
        A: name of the right factor.
        B: name of the left factor.
        alpha: name of the tensor whose value over the rank is the scaling.
        mid: name of the middle factor of a convolution in three factors; None if there is no such.
        diagonal: name of the vector, (r, 1), that multiplies the rows of A; None if there is no such.
        alone: whether a tensor named like one factor, with no other half, is something else.
    """

    writers: str
    A: str
    B: str
    alpha: str = "{module}.alpha"
    mid: str | None = None
    diagonal: str | None = None
    alone: bool = False

    def match(self, key: str) -> dict[str, str] | None:
        """What stands for the placeholders if the key names a factor A; None if it does not.

        >>> KOHYA.match("lora_unet_x.lora_down.weight"), KOHYA.match("x.weight")
        ({'module': 'lora_unet_x'}, None)
        """
        match = self._A.fullmatch(key)
        return match.groupdict() if match else None

    def match_other(self, key: str) -> dict[str, str] | None:
        """The same of a factor B."""
        match = self._B.fullmatch(key)
        return match.groupdict() if match else None

    def name(self, parts: dict[str, str]) -> str:
        """Name of the module: its path, and which pair of it if it has several."""
        part = parts.get("part")
        return parts["module"] if part is None else f"{parts['module']}.{part}"

    @cached_property
    def _A(self) -> re.Pattern[str]:
        return _compiled(self.A)

    @cached_property
    def _B(self) -> re.Pattern[str]:
        return _compiled(self.B)


def _compiled(template: str) -> re.Pattern[str]:
    expression = re.escape(template)
    for placeholder, what in (("module", ".+"), ("adapter", "[^.]+"), ("part", r"\d+")):
        expression = expression.replace(rf"\{{{placeholder}\}}", f"(?P<{placeholder}>{what})")
    return re.compile(expression)


PEFT = Spelling("PEFT, diffusers, ComfyUI", "{module}.lora_A.weight", "{module}.lora_B.weight")
KOHYA = Spelling(
    "sd-scripts, LyCORIS",
    "{module}.lora_down.weight",
    "{module}.lora_up.weight",
    mid="{module}.lora_mid.weight",
)
SPELLINGS = (
    PEFT,
    KOHYA,
    Spelling("PEFT, embeddings", "{module}.lora_embedding_A", "{module}.lora_embedding_B"),
    Spelling(
        "DiffSynth and others that save a live model",
        "{module}.lora_A.{adapter}.weight",
        "{module}.lora_B.{adapter}.weight",
    ),
    Spelling(
        "Mochi, AdaLoRA of PEFT", "{module}.lora_A", "{module}.lora_B", diagonal="{module}.lora_E"
    ),
    Spelling("torchtune", "{module}.lora_a.weight", "{module}.lora_b.weight"),
    Spelling(
        "sd-scripts, projections that are split",
        "{module}.lora_down.{part}.weight",
        "{module}.lora_up.{part}.weight",
    ),
    Spelling("diffusers before PEFT", "{module}.lora.down.weight", "{module}.lora.up.weight"),
    Spelling(
        "diffusers before PEFT, processors", "{module}_lora.down.weight", "{module}_lora.up.weight"
    ),
    Spelling(
        "diffusers before PEFT, text encoders",
        "{module}.lora_linear_layer.down.weight",
        "{module}.lora_linear_layer.up.weight",
    ),
    Spelling(
        "XLabs",
        "{module}_lora{part}.down.weight",
        "{module}_lora{part}.up.weight",
        alpha="{module}_lora{part}.alpha",
    ),
    Spelling("ControlLoRA", "{module}.down", "{module}.up", alone=True),
)
