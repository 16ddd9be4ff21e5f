"""``experiments/report.html``: every table, its text and every figure of the presets that have results, in one file.

``python -m experiments.reporting.page``
"""

import base64
import html
from pathlib import Path

from markdown import markdown

from experiments.folders import RESULTS, Places, places
from theory.records import from_json, write_atomically
from theory.report.page import STYLE

#: Presets whose numbers mean something, best first.
PRESETS = ("paper", "gpu", "cpu")


def write(where: Places) -> Path:
    """Write the report from tables and figures; returns its path.

    Args:
        where: a preset reads and writes. The committed report holds all presets that have committed results; that of
            somebody's own runs holds this preset.
    """
    shown = [where] if where.reference is not None else committed()
    contents = "".join(f"<li>{one.results.name}<ul>{_contents(one)}</ul></li>" for one in shown)
    sections = [_section(one) for one in shown]
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>PrunedLoRA: results</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{STYLE}</style><h1>PrunedLoRA: every table and figure</h1>"
        "<p>Made from the committed result files. A preset that is missing here has not been run.</p>"
        f"<nav><ul>{contents}</ul></nav>{''.join(sections)}</html>\n"
    )
    write_atomically(where.page, page)
    return where.page


def committed() -> list[Places]:
    """The presets that have committed results."""
    return [places(name, True) for name in PRESETS if (RESULTS / name).is_dir()]


def _tables(where: Places) -> list[Path]:
    """Those of the paper first."""
    return sorted(
        where.results.glob("*.md"), key=lambda file: (not file.stem.startswith("table"), file)
    )


def _pictures(where: Places) -> list[Path]:
    return sorted(where.figures.glob("*.png"))


def _contents(where: Places) -> str:
    """Links to all parts of a preset's section."""
    tables = [(f.stem, f.read_text(encoding="utf-8").splitlines()[0]) for f in _tables(where)]
    titles = {name: title.removeprefix("# ") for name, title in tables}
    titles |= {f"picture_{f.stem}": f"picture: {f.stem}" for f in _pictures(where)}
    links = (
        f'<a href="#{where.results.name}_{name}">{html.escape(title)}</a>'
        for name, title in titles.items()
    )
    return "".join(f"<li>{link}</li>" for link in links)


def _section(where: Places) -> str:
    """All tables and pictures of a preset."""
    preset = where.results.name
    parts = {f.stem: _table(f) for f in _tables(where)}
    parts |= {f"picture_{f.stem}": _picture(f) for f in _pictures(where)}
    content = "".join(f'<div id="{preset}_{name}">{part}</div>' for name, part in parts.items())
    folders = [where.results] if where.reference is None else [where.reference, where.results]
    runs = spent(*(folder / "runs" for folder in folders))
    return f"<h1>Preset {html.escape(preset)}</h1><p>{runs}</p>{content}"


def spent(*folders: Path) -> str:
    """How long the runs of a preset took, those that tried a learning rate included.

    Args:
        folders: of results; of those with the same name the one in the last folder counts.
    """
    files = {file.name: file for folder in folders for file in sorted(folder.glob("*.json"))}
    results = [from_json(file.read_text())["result"] for file in files.values()]
    hours = sum(result["train_seconds"] + result["evaluation_seconds"] for result in results) / 3600
    return (
        f"{len(results)} runs; training and evaluation took {hours:.1f} hours, added up over runs."
    )


def _table(file: Path) -> str:
    """A generated Markdown file, its headings one level lower."""
    text = file.read_text(encoding="utf-8").replace("\n#", "\n##").replace("# ", "## ", 1)
    return f'<div style="overflow-x:auto">{markdown(text, extensions=["tables"])}</div>'


def _picture(file: Path) -> str:
    name = html.escape(file.stem)
    content = base64.b64encode(file.read_bytes()).decode()
    return f'<h2>{name}</h2><img alt="{name}" src="data:image/png;base64,{content}">'


if __name__ == "__main__":
    print(write(places(PRESETS[-1], update_reference=True)))
