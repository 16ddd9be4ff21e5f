"""Settings from JSON and YAML: dataclasses whose types are kept to, so that a slip is an error that names its key."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

#: For dataclasses of settings: unknown keys are refused, and no value is converted but a whole number to a float.
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

Kind = TypeVar("Kind")


class _Loader(yaml.SafeLoader):
    """With the numbers of YAML 1.2: ``3e-4`` is one, where YAML 1.1 has text; and each key of a mapping once."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """The node of a mapping, before anything is merged into it.

        Raises:
            ComposerError: a key occurs twice; the last value would replace the first unseen.
        """
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in lines:
                problem = f"line {line}: the key {key.value} is in line {lines[name]} already"
                raise yaml.composer.ComposerError(problem=problem)
            lines[name] = line
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def read_yaml(text: str, where: str) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Args:
        text: its content.
        where: the text comes from, for errors.

    Raises:
        ValueError: it is not YAML, not a mapping, or has a key twice; the message names key and lines.

    >>> read_yaml("rates: [3e-4, 1.5e3, 100, e3]", "x.yaml")
    {'rates': [0.0003, 1500.0, 100, 'e3']}
    """
    try:
        values = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{where}: must hold settings by name, not {values!r}")
    return values


def validated(kind: type[Kind], values: Mapping[str, Any], where: str) -> Kind:
    """A dataclass from a mapping as JSON or YAML has it, with lists for tuples.

    Args:
        kind: a dataclass; its own settings and those of dataclasses in it are checked.
        values: of its fields.
        where: the mapping is, for errors: a file, and a place in it.

    Raises:
        ValueError: unknown or missing keys, and values of another type or out of their range; each with its place.
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        problems = [_problem(kind, details, where) for details in error.errors()]
        raise ValueError("\n".join(problems)) from None


def read_settings(kind: type[Kind], file: Path) -> Kind:
    """A dataclass from a JSON file.

    Raises:
        ValueError: see `validated`.
    """
    return validated(kind, json.loads(file.read_text()), file.name)


def _problem(kind: type, details: ErrorDetails, where: str) -> str:
    if not details["loc"]:
        return f"{where}: {details['msg']}, not {details['input']!r}"
    *path, name = details["loc"]
    place = ": ".join(map(str, (where, *path)))
    if details["type"] == "unexpected_keyword_argument":
        return f"{place}: unknown key {name}; known: {', '.join(sorted(_known(kind, path)))}"
    if details["type"] == "missing":
        return f"{place}: {name} is missing"
    return f"{place}: {name}: {details['msg']}, not {details['input']!r}"


def _known(kind: Any, path: Sequence[str | int]) -> list[str]:
    """Names of the settings of the dataclass that lies at a place within another."""
    for name in path:
        # A step goes to a field; that of a mapping such as dict[str, OneShot] to a value.
        if get_origin(kind) is not dict:
            kind = get_type_hints(_dataclass_in(kind))[str(name)]
            continue
        kind = _dataclass_in(kind)
    return [field.name for field in fields(_dataclass_in(kind))]


def _dataclass_in(kind: Any) -> Any:
    """The dataclass of an annotation such as ``Encoder | None``."""
    return next(part for part in (kind, *get_args(kind)) if is_dataclass(part))
