"""The report: verdicts, tables with their differences and figures, in one file that needs no other.

``python -m experiments.reporting.page`` writes ``experiments/report.html`` from what is committed.
"""

import base64
import html
import importlib
import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from markdown import markdown

from experiments.folders import RESULTS, ROOT, Places, places
from experiments.reporting import claims, forest
from experiments.reporting.claims import Claim
from experiments.reporting.writing import DIFFERENCES
from theory.records import from_json, write_atomically

#: Presets whose numbers mean something, best first.
PRESETS = ("paper", "gpu", "cpu")
#: Tables that stand first: what the verdicts rest on most.
FIRST = ("verdict", "one_budget", "phase", "initial_rank")
#: Figures that have another name than their table.
FIGURE_OF = {"table1": "rank_and_loss", "table7": "rank_per_layer"}
#: Units of the losses of tasks, by whether anything can be right or wrong in them.
UNITS = {True: "nats", False: "share of the change that is left"}
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:1rem auto;padding:0 1rem;overflow-wrap:anywhere}
h1,h2,h3{line-height:1.25}section{border-top:1px solid #ccc;margin-top:2rem}
.scroll{overflow-x:auto;max-width:100%}
.scroll table{border-collapse:collapse;font-size:13px;overflow-wrap:normal}
td,th{border-bottom:1px solid #ccc;padding:.2rem .6rem;text-align:left;white-space:nowrap}
td:first-child,th:first-child{position:sticky;left:0;background:#fff}
figure{margin:1rem 0}figure img{max-width:100%;height:auto}figcaption{font-size:14px;color:#444}
.forest{font:12px system-ui,sans-serif}.forest .head{font-weight:600}.forest .band{fill:#eee}
.forest .zero{stroke:#999}.forest .axis{stroke:#666}.forest .hollow{fill:#fff}
details{margin:.5rem 0}summary{cursor:pointer;color:#0050a0}
.claims{display:grid;gap:.8rem;padding:0;grid-template-columns:repeat(auto-fill,minmax(min(20rem,100%),1fr))}
.claim{list-style:none;border:1px solid #ccc;border-left:.4rem solid #767676;padding:.5rem .8rem}
.claim p{margin:.3rem 0;font-size:14px}.claim .says{font-size:15px}.place{color:#555}
.holds{border-left-color:#0072b2}.fails{border-left-color:#c04a00}
code{font-size:13px;background:#f3f3f3}
@media(max-width:480px){body{font-size:15px;padding:0 .6rem}td:first-child,th:first-child{position:static}}
"""


def write(where: Places) -> Path:
    """Write the report from tables and figures; returns its path.

    Args:
        where: a preset reads and writes. The committed report opens with the verdicts and holds all presets that have
            committed results; that of somebody's own runs holds this preset.
    """
    own = where.reference is not None
    shown = [where] if own else committed()
    parts = [] if own else [_verdicts(claims.load(), where.page.parent)]
    parts += [_contents(shown), *map(_preset, shown)]
    title = f"PrunedLoRA: results of preset {where.results.name}" if own else "PrunedLoRA: results"
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style><h1>{title}</h1>{''.join(parts)}</html>\n"
    )
    write_atomically(where.page, page)
    return where.page


def committed() -> list[Places]:
    """The presets that have committed results."""
    return [places(name, True) for name in PRESETS if (RESULTS / name).is_dir()]


def _verdicts(all_claims: tuple[Claim, ...], folder: Path) -> str:
    """What becomes of the paper's claims, with links into the page or to files, as seen from its folder."""
    items = "".join(_claim(claim, folder) for claim in all_claims)
    return (
        f'<h2 id="verdicts">What becomes of the paper’s claims</h2><ul class="claims">{items}</ul>'
        "<p>Made from committed result files alone; a test checks every verdict against them.</p>"
    )


def _claim(claim: Claim, folder: Path) -> str:
    kind = "fails" if claim.verdict == "fails" else "holds" if claim.verdict == "holds" else ""
    links = ", ".join(_link(ROOT / page, folder) for page in claim.pages)
    return (
        f'<li class="claim {kind}"><p class="says">{html.escape(claim.claim)} '
        f'<span class="place">({html.escape(claim.place)})</span></p>'
        f"<p><strong>{claim.verdict}</strong>. {html.escape(claim.finding)}</p>"
        f"<details><summary>In full</summary><p>{html.escape(claim.condition)}</p>"
        f"<p><code>{html.escape(claim.command)}</code></p></details><p>See {links}.</p></li>"
    )


def _link(page: Path, folder: Path) -> str:
    """To the section of a table that is in the page, else to its file."""
    inside = page.is_relative_to(RESULTS)
    target = _anchor(page.parent.name, page.stem) if inside else os.path.relpath(page, folder)
    return f'<a href="{"#" if inside else ""}{target}">{html.escape(page.stem)}</a>'


def _anchor(preset: str, name: str) -> str:
    return f"{preset}_{name}"


def _contents(shown: list[Places]) -> str:
    """Links to all sections, folded."""
    items = (
        f'<li><a href="#{_anchor(one.results.name, file.stem)}">{html.escape(_title(file))}</a></li>'
        for one in shown
        for file in _tables(one)
    )
    return f"<details><summary>All tables</summary><ul>{''.join(items)}</ul></details>"


def _tables(where: Places) -> list[Path]:
    """What the verdicts rest on, then the paper's tables, then all others."""

    def place(file: Path) -> tuple[int, bool, str]:
        first = FIRST.index(file.stem) if file.stem in FIRST else len(FIRST)
        return first, not file.stem.startswith("table"), file.stem

    return sorted(where.results.glob("*.md"), key=place)


def _title(table: Path) -> str:
    return table.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def _preset(where: Places) -> str:
    """All tables of a preset, each with its figure beside it, and the figures that have no table."""
    preset = where.results.name
    figures = {file.stem: file for file in sorted(where.figures.glob("*.png"))}
    sections = []
    for table in _tables(where):
        stem = table.stem.replace("one_shot_", "frontier_")
        figure = figures.pop(FIGURE_OF.get(table.stem, stem), None)
        picture = "" if figure is None else _picture(figure)
        section = "".join(_section(table, picture))
        sections.append(f'<section id="{_anchor(preset, table.stem)}">{section}</section>')
    folders = [where.results] if where.reference is None else [where.reference, where.results]
    runs = spent(*(folder / "runs" for folder in folders))
    rest = "".join(map(_picture, figures.values()))
    return f"<h1>Preset {html.escape(preset)}</h1><p>{runs}</p>{''.join(sections)}{rest}"


def _section(table: Path, picture: str) -> Iterator[str]:
    """A generated Markdown file: its figure, its numbers, and the differences of its rows as a picture and folded."""
    title, _, text = table.read_text(encoding="utf-8").partition("\n")
    numbers, _, differences = text.partition(DIFFERENCES)
    yield f"<h2>{html.escape(title.removeprefix('# '))}</h2>{picture}{_html(numbers)}"
    file = table.with_name(f"{table.stem}_differences.csv")
    if differences and file.exists():
        frame = pd.read_csv(file)
        image = forest.svg(frame, title.removeprefix("# "), _units(table.with_suffix(".csv")))
        yield (
            f'<figure><div class="scroll">{image}</div><figcaption>{forest.LEGEND}</figcaption></figure>'
            f"<details><summary>{len(frame)} differences in figures</summary>"
            f"{_html(differences)}</details>"
        )


def _units(numbers: Path) -> dict[str, str]:
    """Of the losses of a table, by column."""
    scored = pd.read_csv(numbers).groupby("column", sort=False)["accuracy"].count()
    return {str(column): UNITS[bool(any_right)] for column, any_right in scored.items()}


def _html(text: str) -> str:
    """Markdown with headings one level lower, each table in a box of its own that scrolls."""
    made = markdown(text.replace("\n#", "\n##"), extensions=["tables"])
    return made.replace("<table>", '<div class="scroll"><table>').replace(
        "</table>", "</table></div>"
    )


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


def _picture(file: Path) -> str:
    """A figure with its caption: what the script that draws it says of itself."""
    caption = html.escape(_caption(file.stem))
    content = base64.b64encode(file.read_bytes()).decode()
    return (
        f'<figure><img loading="lazy" alt="{caption}" src="data:image/png;base64,{content}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _caption(name: str) -> str:
    script = "frontier" if name.startswith("frontier_") else name
    said = importlib.import_module(f"paper_figures.{script}").__doc__ or ""
    return said.partition("\n\n")[0].replace("\n", " ")


if __name__ == "__main__":
    print(write(places(PRESETS[-1], update_reference=True)))
