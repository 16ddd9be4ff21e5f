"""Differences of rows as a picture in a page: a line for each pair of rows, a panel for each column of the table.

The picture is SVG, whose text can be searched and enlarged.  What is said of a difference is in the form of its mark
and in its colour, so that neither is needed alone.
"""

import html
from collections.abc import Callable, Iterator

import pandas as pd

from experiments.reporting.seeds import Verdict

#: Heights and widths in pixels.
ROW = 17
HEAD = 40
FOOT = 34
LABELS = 330
PANEL = 170
GAP = 14
#: Of a label, at most.
LETTERS = 48
#: Colours that are told apart by all kinds of sight.
COLOURS: dict[Verdict, str] = {
    "lower": "#0072b2",
    "higher": "#c04a00",
    "level": "#222222",
    "not decided": "#767676",
    "not judged": "#767676",
}
#: Of these the dot is hollow.
OPEN: tuple[Verdict, ...] = ("not decided", "not judged")
#: The axis goes so much further than this share of all means; what lies beyond has an arrow.
REACH = 1.5
MOST = 0.9
LEGEND = (
    "Dot and bar: mean and 95 % interval over seeds of the first row's loss less that of the row it is compared with. "
    "Filled blue: lower; filled orange: higher; square: level; hollow and grey: not decided, or not judged. The band "
    "is the margin within which rows are level; an arrow goes on beyond the panel, with the mean in figures if that "
    "lies there."
)


def svg(differences: pd.DataFrame, title: str, units: dict[str, str]) -> str:
    """The picture.

    Args:
        differences: lines of a table's CSV of differences, see `experiments.reporting.writing`.
        title: of the table, for those who hear the page.
        units: of the loss, by the column of the table.
    """
    columns = list(dict.fromkeys(differences["column"]))
    lines = list(_lines(differences))
    reach = _reach(differences)
    width = LABELS + len(columns) * (PANEL + GAP)
    height = HEAD + ROW * len(lines) + FOOT
    parts = [
        f'<svg class="forest" role="img" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">',
        f"<title>Differences between rows: {html.escape(title)}</title>",
        f"<desc>{html.escape(_in_words(differences))}</desc>",
    ]
    for i, (method, against) in enumerate(lines):
        y = HEAD + ROW * i
        # A row that several are compared with stands above them.
        name, style = (f"less {against}:", ' class="head"') if method is None else (method, "")
        x = LABELS - 10 if method is not None else 4
        anchor = "end" if method is not None else "start"
        short = name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"
        parts.append(
            f'<text{style} x="{x}" y="{y + 12}" text-anchor="{anchor}">{html.escape(short)}</text>'
        )
    for i, column in enumerate(columns):
        own = differences[differences["column"] == column]
        left = LABELS + i * (PANEL + GAP)
        parts += _panel(own, column, lines, left, reach, units.get(column, ""))
    return "".join([*parts, "</svg>"])


def _lines(differences: pd.DataFrame) -> Iterator[tuple[str | None, str]]:
    """Pairs of rows in order, those with the same second row together below a line of its own."""
    pairs = differences.drop_duplicates(["method", "against"])
    for against, group in pairs.groupby("against", sort=False):
        yield None, str(against)
        for method in group["method"]:
            yield str(method), str(against)


def _reach(differences: pd.DataFrame) -> float:
    """Where the axes of all panels end, on both sides of zero."""
    means = differences["mean"].abs().quantile(MOST)
    return float(REACH * max(means, 1.5 * differences["margin"].max()))


def _panel(
    own: pd.DataFrame,
    column: str,
    lines: list[tuple[str | None, str]],
    left: int,
    reach: float,
    unit: str,
) -> Iterator[str]:
    """A column of the table."""
    bottom = HEAD + ROW * len(lines)
    middle = left + PANEL / 2

    def x(value: float) -> float:
        return middle + PANEL / 2 * max(-1.0, min(1.0, value / reach))

    margin = float(own["margin"].max())
    yield f'<text class="head" x="{middle}" y="{HEAD - 22}" text-anchor="middle">{html.escape(column)}</text>'
    yield (
        f'<rect class="band" x="{x(-margin):.1f}" y="{HEAD - 8}" width="{x(margin) - x(-margin):.1f}" '
        f'height="{bottom - HEAD + 8}"/>'
    )
    yield f'<line class="zero" x1="{middle}" y1="{HEAD - 8}" x2="{middle}" y2="{bottom}"/>'
    yield f'<line class="axis" x1="{left}" y1="{bottom}" x2="{left + PANEL}" y2="{bottom}"/>'
    for value, anchor in ((-reach, "start"), (0.0, "middle"), (reach, "end")):
        said = f"{value:+.2g}" if value else "0"
        yield f'<text x="{x(value):.1f}" y="{bottom + 13}" text-anchor="{anchor}">{said}</text>'
    yield f'<text x="{middle}" y="{bottom + 27}" text-anchor="middle">{html.escape(unit)}</text>'
    found = {(str(d["method"]), str(d["against"])): d for _, d in own.iterrows()}
    for i, pair in enumerate(lines):
        if pair[0] is not None and (pair[0], pair[1]) in found:
            yield _mark(found[pair[0], pair[1]], HEAD + ROW * i + ROW / 2, x, reach)


def _mark(d: pd.Series, y: float, x: Callable[[float], float], reach: float) -> str:
    """One difference: its interval, its mean and, under the pointer, both in figures."""
    colour = COLOURS[d["verdict"]]
    said = f"{d['method']} less {d['against']}, {d['column']}: {d['mean']:+.4f}"
    parts = [f'<g stroke="{colour}" fill="{colour}">']
    if pd.notna(d["low"]):
        said += f" ({d['low']:+.4f} to {d['high']:+.4f})"
        parts.append(
            f'<line x1="{x(d["low"]):.1f}" y1="{y}" x2="{x(d["high"]):.1f}" y2="{y}" stroke-width="1.5"/>'
        )
        for end, sign in ((d["low"], -1), (d["high"], 1)):
            if sign * end > reach:
                tip = x(end)
                points = (
                    f"{tip:.1f},{y} {tip - 6 * sign:.1f},{y - 3.5} {tip - 6 * sign:.1f},{y + 3.5}"
                )
                parts.append(f'<polygon points="{points}" stroke="none"/>')
    at = x(d["mean"])
    if abs(d["mean"]) > reach:
        # A mark at the edge would say that the mean is there.
        beside, anchor = (at + 9, "start") if d["mean"] < 0 else (at - 9, "end")
        parts.append(
            f'<text stroke="none" x="{beside:.1f}" y="{y + 4}" text-anchor="{anchor}">{d["mean"]:+.3f}</text>'
        )
    elif d["verdict"] == "level":
        parts.append(f'<rect x="{at - 3.5:.1f}" y="{y - 3.5}" width="7" height="7"/>')
    else:
        hollow = ' class="hollow"' if d["verdict"] in OPEN else ""
        parts.append(f'<circle{hollow} cx="{at:.1f}" cy="{y}" r="3.2"/>')
    return "".join([*parts, f"<title>{html.escape(said)}, {d['verdict']}</title></g>"])


def _in_words(differences: pd.DataFrame) -> str:
    """How many differences there are of each kind, for those who cannot see the picture."""
    counts = differences["verdict"].value_counts()
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in COLOURS if kind in counts)
    return f"{len(differences)} differences of losses: {kinds}. The table below has all of them."
