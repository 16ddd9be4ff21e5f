"""The table of what refining gains."""

import json

import pytest

from experiments.folders import RESULTS
from experiments.settings.jobs import Refined, RunConfig
from experiments.tables import refined


def record(criterion: str, cut: float, after: float) -> dict:
    rows = [
        {
            "criterion": criterion,
            "rank": rank,
            "cut_increase": cut / rank,
            "refined_increase": after / rank,
        }
        for rank in (2, 1)
    ]
    return {"rows": rows}


def test_everything_is_relative_to_the_first_criterion_without_refining():
    records = [
        *(record("svd", cut, after) for cut, after in ((0.3, 0.1), (0.5, 0.1))),
        *(record("svd_fisher", 0.2, after) for after in (0.1, 0.0)),
    ]
    frame = refined.increases(records).set_index("criterion")
    assert list(frame.index) == ["svd", "svd, refined", "svd_fisher", "svd_fisher, refined"]
    assert frame["rank 1"].tolist() == pytest.approx([0.4, 0.1, 0.2, 0.05])
    assert frame["rank 2"].tolist() == pytest.approx([0.2, 0.05, 0.1, 0.025])
    assert frame["relative, rank 2"].tolist() == pytest.approx([1.0, 0.25, 0.5, 0.125])
    assert frame["relative"].tolist() == pytest.approx([1.0, 0.25, 0.5, 0.125])


def test_the_text_says_what_was_done(tmp_path):
    settings = Refined(("svd",), (2, 1), 1024, 128, 200)
    run = RunConfig("minilm_2_layers", "planted_flat", initial_rank=64, batch_size=8)
    files = refined.write("cpu", "flat", settings, run, [record("svd", 0.4, 0.1)], tmp_path)
    text = files[0].read_text()
    assert "200 steps of 8 of 1024 examples" in text
    assert "chosen by 128 others" in text
    assert [file.name for file in files] == ["refined_flat.md", "refined_flat.csv"]


def test_committed_cuts_are_those_of_the_one_shot_experiment():
    """Measured in another job, from the same adapter and the same statistics."""
    folder = RESULTS / "cpu"
    compared = 0
    for file in (folder / "refined").glob("*.json"):
        record = json.loads(file.read_text())
        task, seed = record["config"]["run"]["task"], record["config"]["run"]["seed"]
        (whole,) = (folder / "one_shot").glob(f"{task}_seed{seed}_*.json")
        of_rank = {
            (row["criterion"], row["rank"]): row["test_increase"]
            for row in json.loads(whole.read_text())["result"]["rows"]
        }
        for row in record["result"]["rows"]:
            expected = of_rank[row["criterion"], row["rank"]]
            assert row["cut_increase"] == pytest.approx(expected, rel=1e-3), file.name
            compared += 1
    assert compared
