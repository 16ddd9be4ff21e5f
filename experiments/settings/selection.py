"""The preset ``quick``: which runs of another preset are done once more, to be compared with its committed results."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.settings.jobs import OneShot, Seeds
from experiments.settings.preset import Preset
from experiments.settings.validation import STRICT, read_yaml, validated

FILE = Path(__file__).parent / "quick.yaml"
NAME = "quick"


@dataclass(frozen=True)
class Part:
    """Some cells of a table.

    Attributes:
        rows: their labels; all rows if there are none.
        columns: their names; all columns if there are none.
    """

    __pydantic_config__ = STRICT

    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Selection:
    """What is done once more.

    Attributes:
        of: the preset whose runs they are.
        seeds: that are done, of those that its tables have.
        tables: cells, by the name of their table.
        one_shot: what is different in its one-shot experiments, by their name; on the first of the seeds.
        theory: whether the statements of ``theory/`` are verified too.
    """

    __pydantic_config__ = STRICT

    of: str
    seeds: Seeds
    tables: dict[str, Part]
    one_shot: dict[str, dict[str, Any]] = field(default_factory=dict)
    theory: bool = False


def load_selection(file: Path = FILE) -> Selection:
    """The selection in a file.

    Raises:
        ValueError: unknown or missing keys, or values that do not fit.
    """
    return validated(Selection, read_yaml(file.read_text(), file.name), file.name)


def reduced_preset(selection: Selection, preset: Preset) -> Preset:
    """The preset under the name of the selection, with the one-shot experiments of the selection alone.

    Raises:
        ValueError: a one-shot experiment that the preset does not have, or settings that do not fit.
    """
    experiments = {}
    for name, changes in selection.one_shot.items():
        if name not in preset.one_shot:
            raise ValueError(f"{FILE.name}: one_shot: {selection.of} has no experiment {name}")
        settings = vars(preset.one_shot[name]) | {"seeds": selection.seeds[:1]} | changes
        experiments[name] = validated(OneShot, settings, f"{FILE.name}: one_shot: {name}")
    return replace(preset, name=NAME, one_shot=experiments)
