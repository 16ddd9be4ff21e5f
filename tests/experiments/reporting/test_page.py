import json
from dataclasses import replace

from experiments.folders import FIGURES, RESULTS, places
from experiments.reporting import page


def test_the_report_adds_up_what_runs_took(tmp_path):
    for i, seconds in enumerate((1800, 3600)):
        result = {"train_seconds": seconds, "evaluation_seconds": 900}
        (tmp_path / f"{i}.json").write_text(json.dumps({"result": result}))
    assert (
        page.spent(tmp_path)
        == "2 runs; training and evaluation took 2.0 hours, added up over runs."
    )


def test_the_report_holds_every_table_and_needs_no_other_file(tmp_path):
    where = replace(places("cpu", update_reference=True), page=tmp_path / "report.html")
    text = page.write(where).read_text()
    for file in (RESULTS / "cpu").glob("*.md"):
        title = file.read_text().splitlines()[0].removeprefix("# ")
        assert title.replace("&", "&amp;") in text
    assert text.count('src="data:image/png') == len(list((FIGURES / "cpu").glob("*.png")))
    assert 'src="http' not in text
    assert (
        "<td>LoRA at the target rank</td>" in text
        or '<td style="text-align: left;">LoRA at the target rank</td>' in text
    )
