import json

import pytest

from experiments import table1
from experiments.config import load_preset
from paper_figures import rank_and_loss


def result(run, correct: str, loss: float) -> dict:
    trained = run.method in ("lora", "prune")
    facts = {} if run.method == "untuned" else {"rank": run.target_rank, "adapter_bytes": 10**6}
    return {
        "accuracy": correct.count("1") / len(correct),
        "interval": [0.1, 0.9],
        "cross_entropy": loss,
        "correct": correct,
        "train_loss": [2.0, 1.0] if trained else [],
        "events": [{"step": 2, "ranks": {"q": run.target_rank}}] if run.method == "prune" else [],
        "train_seconds": 1.0,
        "peak_memory_bytes": 2**30,
        **facts,
    }


@pytest.fixture
def made():
    preset = load_preset("smoke")
    results = {}
    for row in table1.rows(preset):
        share = {"prunedlora2025": 90, "magnitude": 30}.get(row.runs[0].criterion, 60)
        for run in row.runs:
            correct = "0" * 100 if run.method == "untuned" else "1" * share + "0" * (100 - share)
            results[run.key] = result(run, correct, 1 - share / 200)
    return preset, results


def test_rows_are_the_untuned_model_two_ranks_truncation_and_every_criterion(made):
    preset, results = made
    frame = table1.table(preset, results)
    assert frame["method"].tolist()[:4] == [
        "untuned model",
        "LoRA at the target rank",
        table1.SKYLINE,
        table1.TRUNCATED,
    ]
    assert frame["method"].tolist()[4:] == [table1.PRUNED.format(c) for c in preset.table1.criteria]
    assert frame["rank"].tolist()[1:] == [4, 8, 4, 4, 4, 4, 4]


def test_the_text_follows_the_numbers(made):
    preset, results = made
    text = table1.findings(preset, results)
    assert "the best criterion in accuracy is prunedlora2025" in text
    assert "pruned by prunedlora2025 (8→4) is above skyline truncated by SVD (8→4): +30.0 points" in text
    assert "weakest trained row, pruned by magnitude (8→4), is +30.0 points" in text
    for row in table1.rows(preset):
        if row.runs[0].criterion == "prunedlora2025":
            results[row.runs[0].key] |= {"correct": "1" * 20 + "0" * 80, "accuracy": 0.2}
    text = table1.findings(preset, results)
    assert "is below skyline truncated by SVD (8→4): -40.0 points" in text


def test_table_and_figure_are_written(made, tmp_path):
    preset, results = made
    markdown, csv = table1.write(preset, results, tmp_path)
    assert "| pruned by magnitude" in markdown.read_text()
    assert "nan" not in markdown.read_text()
    assert len(csv.read_text().splitlines()) == 9
    (tmp_path / "runs").mkdir()
    for row in table1.rows(preset):
        for run in row.runs:
            text = json.dumps({"config": vars(run), "result": results[run.key]})
            (tmp_path / "runs" / f"{run.key}.json").write_text(text)
    for file in rank_and_loss.draw(list((tmp_path / "runs").glob("*.json")), tmp_path / "figures"):
        assert file.stat().st_size > 5_000
