"""``experiments/report.html``: every table, its text and every figure of the presets that have results, in one file.

``python -m experiments.report``
"""

import base64
import html
from pathlib import Path

from markdown import markdown

from theory.files import write_atomically
from theory.report import STYLE

HERE = Path(__file__).parent
FIGURES = HERE.parent / "paper_figures"
#: Presets whose numbers mean something, best first.
PRESETS = ("paper", "gpu", "cpu")


def write(out: Path = HERE / "report.html") -> Path:
    """Write the report from the files in ``results`` and ``paper_figures``; returns its path."""
    sections = [_section(preset) for preset in PRESETS if (HERE / "results" / preset).is_dir()]
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>PrunedLoRA: results</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{STYLE}</style><h1>PrunedLoRA: every table and figure</h1>"
        "<p>Made from the committed result files. A preset that is missing here has not been run.</p>"
        f"{''.join(sections)}</html>\n"
    )
    write_atomically(out, page)
    return out


def _section(preset: str) -> str:
    tables = [_table(file) for file in sorted((HERE / "results" / preset).glob("*.md"))]
    pictures = [_picture(file) for file in sorted((FIGURES / preset).glob("*.png"))]
    return f"<h1>Preset {html.escape(preset)}</h1>{''.join(tables)}{''.join(pictures)}"


def _table(file: Path) -> str:
    """A generated Markdown file, its headings one level lower."""
    text = file.read_text(encoding="utf-8").replace("\n#", "\n##").replace("# ", "## ", 1)
    return f'<div style="overflow-x:auto">{markdown(text, extensions=["tables"])}</div>'


def _picture(file: Path) -> str:
    content = base64.b64encode(file.read_bytes()).decode()
    return (
        f'<h2>{html.escape(file.stem)}</h2><img alt="{html.escape(file.stem)}" src="data:image/png;base64,{content}">'
    )


if __name__ == "__main__":
    print(write())
