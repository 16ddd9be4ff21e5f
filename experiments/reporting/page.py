"""``experiments/report.html``: every table, its text and every figure of the presets that have results, in one file.

``python -m experiments.reporting.page``
"""

import base64
import html
from pathlib import Path

from markdown import markdown

from experiments.folders import EXPERIMENTS, FIGURES, RESULTS
from theory.records import from_json, write_atomically
from theory.report.page import STYLE

#: Presets whose numbers mean something, best first.
PRESETS = ("paper", "gpu", "cpu")


def write(out: Path = EXPERIMENTS / "report.html") -> Path:
    """Write the report from the files in ``results`` and ``paper_figures``; returns its path."""
    presets = [preset for preset in PRESETS if (RESULTS / preset).is_dir()]
    contents = "".join(f"<li>{preset}<ul>{_contents(preset)}</ul></li>" for preset in presets)
    sections = [_section(preset) for preset in presets]
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>PrunedLoRA: results</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{STYLE}</style><h1>PrunedLoRA: every table and figure</h1>"
        "<p>Made from the committed result files. A preset that is missing here has not been run.</p>"
        f"<nav><ul>{contents}</ul></nav>{''.join(sections)}</html>\n"
    )
    write_atomically(out, page)
    return out


def _tables(preset: str) -> list[Path]:
    """Those of the paper first."""
    files = (RESULTS / preset).glob("*.md")
    return sorted(files, key=lambda file: (not file.stem.startswith("table"), file))


def _pictures(preset: str) -> list[Path]:
    return sorted((FIGURES / preset).glob("*.png"))


def _contents(preset: str) -> str:
    """Links to all parts of a preset's section."""
    tables = [(f.stem, f.read_text(encoding="utf-8").splitlines()[0]) for f in _tables(preset)]
    titles = {name: title.removeprefix("# ") for name, title in tables}
    titles |= {f"picture_{f.stem}": f"picture: {f.stem}" for f in _pictures(preset)}
    links = (
        f'<a href="#{preset}_{name}">{html.escape(title)}</a>' for name, title in titles.items()
    )
    return "".join(f"<li>{link}</li>" for link in links)


def _section(preset: str) -> str:
    """All tables and pictures of a preset."""
    parts = {f.stem: _table(f) for f in _tables(preset)}
    parts |= {f"picture_{f.stem}": _picture(f) for f in _pictures(preset)}
    content = "".join(f'<div id="{preset}_{name}">{part}</div>' for name, part in parts.items())
    runs = spent(RESULTS / preset / "runs")
    return f"<h1>Preset {html.escape(preset)}</h1><p>{runs}</p>{content}"


def spent(runs: Path) -> str:
    """How long the runs of a preset took, those that tried a learning rate included."""
    results = [from_json(file.read_text())["result"] for file in sorted(runs.glob("*.json"))]
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
    print(write())
