import html
import importlib
import json
import re
from dataclasses import replace

import pytest

from experiments.folders import FIGURES, RESULTS, Places, places
from experiments.reporting import claims, page
from experiments.reporting.writing import DIFFERENCES


def test_the_report_adds_up_what_runs_took(tmp_path):
    for i, seconds in enumerate((1800, 3600)):
        result = {"train_seconds": seconds, "evaluation_seconds": 900}
        (tmp_path / f"{i}.json").write_text(json.dumps({"result": result}))
    assert (
        page.spent(tmp_path)
        == "2 runs; training and evaluation took 2.0 hours, added up over runs."
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The committed report, written elsewhere."""
    file = tmp_path_factory.mktemp("report") / "report.html"
    return page.write(replace(places("cpu", update_reference=True), page=file)).read_text()


def test_the_report_holds_every_table_and_figure_and_needs_no_other_file(report):
    for file in (RESULTS / "cpu").glob("*.md"):
        title = file.read_text().splitlines()[0].removeprefix("# ")
        assert html.escape(title) in report
        assert f'<section id="cpu_{file.stem}">' in report
    assert report.count('src="data:image/png') == len(list((FIGURES / "cpu").glob("*.png")))
    assert not re.search(r'(?:src|href)="(?:https?:)?//', report)
    assert "<script" not in report
    assert len(report) < 3_000_000


def test_the_report_opens_with_a_verdict_on_every_claim(report):
    before_tables = report[: report.index("<section")]
    for claim in claims.load():
        assert html.escape(claim.claim) in before_tables
        assert html.escape(claim.condition) in before_tables
    assert before_tables.count('<li class="claim') == len(claims.load())


def test_links_in_the_report_lead_somewhere(report):
    targets = set(re.findall(r'href="([^"]+)"', report))
    assert any(not target.startswith("#") for target in targets)
    for target in targets:
        if target.startswith("#"):
            assert f'id="{target[1:]}"' in report, target
        else:
            # As seen from the folder of the test, where this report lies.
            assert target.endswith("claim.md")


def test_every_figure_says_what_it_shows_and_stands_with_its_table(report):
    for alt in re.findall(r'<img[^>]* alt="([^"]*)"', report):
        assert len(alt) > 30
        assert f"<figcaption>{alt}</figcaption>" in report
    for table, script in (("verdict", "verdict"), ("table1", "rank_and_loss")):
        section = re.search(rf'<section id="cpu_{table}">.*?</section>', report, re.DOTALL)[0]
        caption = importlib.import_module(f"paper_figures.{script}").__doc__.partition("\n\n")[0]
        assert html.escape(caption.replace("\n", " ")) in section


def test_a_table_scrolls_in_a_box_of_its_own(report):
    assert report.count("<table>") == report.count('<div class="scroll"><table>') > 10
    assert 'name="viewport"' in report


def test_differences_are_a_picture_and_their_figures_are_folded(tmp_path):
    rows = [
        f"to 8,{name},LoRA,{mean},{mean - 0.01},{mean + 0.01},0.01,1,5,0.005,lower"
        for name, mean in (("svd", -0.1), ("kfac", -0.05))
    ]
    head = "column,method,against,mean,low,high,p,p_apart,seeds,margin,verdict"
    (tmp_path / "t_differences.csv").write_text("\n".join([head, *rows]))
    numbers = "method,column,accuracy,low,high,loss,spread,seeds\nsvd,to 8,,,,0.4,0.1,5\n"
    (tmp_path / "t.csv").write_text(numbers)
    table = "| a |\n|:--|\n| 1 |"
    text = f"# A title\n\nSaid.\n\n{table}\n\n{DIFFERENCES}\n\nHow.\n\n{table}\n"
    (tmp_path / "t.md").write_text(text)
    section = "".join(page._section(tmp_path / "t.md", "<figure/>"))
    assert section.index("<figure/>") < section.index("Said.") < section.index("<svg")
    assert section.count("<g ") == 2
    assert "share of the change that is left" in section
    folded = section[section.index("<details><summary>2 differences in figures</summary>") :]
    assert "How." in folded
    assert "<table>" in folded


def test_a_report_of_somebodys_own_runs_holds_their_preset_alone(tmp_path):
    own = tmp_path / "gpu"
    own.mkdir()
    (own / "table1.md").write_text("# Table 1: mine\n\n| a |\n|:--|\n| 1 |\n")
    where = Places(own, own / "figures", own / "report.html", tmp_path / "nothing")
    text = page.write(where).read_text()
    assert "Table 1: mine" in text
    assert "0 runs" in text
    assert 'class="claim' not in text
    assert "Preset cpu" not in text
