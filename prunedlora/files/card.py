"""The model card (`README.md`) of an adapter's folder, and the record of what was done beside it."""

import json
from collections.abc import Collection

CARD = "README.md"
RECORD = "pruning_report.json"
#: The record that lay beside the adapter before.
EARLIER = "pruning_report.before.json"

_USE = """## Use

```python
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "path/to/this/folder")
```
"""


def head(base: object, title: str) -> str:
    """What stands at the top of PEFT's own card.

    Args:
        base: name of the base model, as the configuration has it; left out if that is not a name.
        title: of the card.

    >>> print(head("organisation/model", "my adapter"))
    ---
    base_model: "organisation/model"
    library_name: peft
    tags:
    - lora
    ---
    <BLANKLINE>
    # my adapter
    """
    # As JSON a name is valid YAML too, whatever letters it has.
    lines = [f"base_model: {json.dumps(base)}"] if isinstance(base, str) and base else []
    lines += ["library_name: peft", "tags:", "- lora"]
    return "\n".join(["---", *lines, "---", "", f"# {plain(title)}"])


def card(top: str, heading: str, sentence: str, facts: Collection[str]) -> str:
    """A whole card: its top, a section of what was done, and how the adapter is loaded.

    Args:
        top: an older card, or that of `head`.
        heading: of the section.
        sentence: at its beginning.
        facts: one line each.
    """
    lines = "\n".join(f"- {fact}" for fact in facts)
    section = f"## {heading}\n\n{sentence}\n\n{lines}\n"
    return f"{top.rstrip()}\n\n{section}" + ("" if _USE in top else f"\n{_USE}")


def span(ranks: Collection[int]) -> str:
    """The least and the greatest.

    >>> span([8, 4]), span([8, 8])
    ('4 to 8', '8')
    """
    low, high = min(ranks), max(ranks)
    return str(low) if low == high else f"{low} to {high}"


def count(number: int, thing: str) -> str:
    """So many things.

    >>> count(1, "module"), count(2, "module")
    ('1 module', '2 modules')
    """
    return f"{number} {thing}{'' if number == 1 else 's'}"


def plain(text: str) -> str:
    """Text that is not markup in a card."""
    return "".join(
        letter if letter.isprintable() and letter not in "`<>" else "?" for letter in text
    )
