"""Table 8: what its text says of numbers, and which presets it refuses."""

import math
from dataclasses import replace

import pandas as pd
import pytest

from experiments.running import dry_run
from experiments.settings.preset import load_preset
from experiments.tables import table8

TABLE = load_preset("smoke").table8


def result(level: float, *patterns: str) -> dict:
    losses = [level + 0.1 * math.sin(i) for i in range(40)]
    rows = [{"pattern": p, "perplexity": math.exp(level), "losses": losses} for p in patterns]
    return {
        "text": "t",
        "layers": 14,
        "tokens": 9,
        "sha256": {"calibration": "c", "test": "d"},
        "rows": rows,
    }


@pytest.mark.parametrize(
    ("gradient", "says", "verdict"),
    [
        (2.0, "Gradient is lower than that of Wanda", "in 2 of 2 patterns (50%, 2:4)"),
        (4.0, "Gradient is higher than that of Wanda", "in 0 of 2 patterns."),
    ],
)
def test_the_table_and_its_text_follow_the_numbers(tmp_path, gradient, says, verdict):
    settings = replace(TABLE, run=replace(TABLE.run, patterns=("50%", "2:4")))
    levels = {"magnitude": 5.0, "wanda": 3.0, "sparsegpt": 2.5, "gradient": gradient}
    rows = {method: [result(level, "50%", "2:4")] for method, level in levels.items()}
    markdown, csv = table8.write("smoke", settings, result(1.0, "dense"), rows, tmp_path)
    text = markdown.read_text()
    assert f"50%: the perplexity of {says}" in text
    assert verdict in text
    assert "| 42.13 " in text
    frame = pd.read_csv(csv).set_index(["method", "pattern"])
    assert frame.loc["wanda", "2:4"].perplexity == pytest.approx(math.exp(3.0), rel=0.05)
    assert (
        frame.loc["wanda", "2:4"].low
        < frame.loc["wanda", "2:4"].perplexity
        < frame.loc["wanda", "2:4"].high
    )
    assert frame.loc["wanda", "2:4"].paper_llama_7b == 11.53


def test_what_differs_between_seeds_is_told(tmp_path):
    settings = replace(TABLE, run=replace(TABLE.run, patterns=("50%",)), seeds=(0, 1, 2))
    assert {len(runs) for runs in settings.rows.values()} == {3}
    levels = {"magnitude": (3.0, 3.0, 3.0), "wanda": (1.0, 2.0, 3.0), "gradient": (2.9, 2.9, 3.05)}
    rows = {method: [result(level, "50%") for level in found] for method, found in levels.items()}
    markdown, csv = table8.write("smoke", settings, result(1.0, "dense"), rows, tmp_path)
    frame = pd.read_csv(csv).set_index("method")
    assert frame.seeds.to_dict() == {"dense": 1, "magnitude": 3, "wanda": 3, "gradient": 3}
    assert frame.spread.wanda == pytest.approx(
        pd.Series([1.0, 2.0, 3.0]).map(math.exp).std(), rel=0.05
    )
    assert frame.spread.isna().tolist() == [True, False, False, False]
    assert frame.spread.magnitude == 0
    text = markdown.read_text()
    assert (
        "Gradient is not distinguishable from that of Magnitude: 0.951 times, paired 95 % interval 0.951 to 0.951; "
        "2 of 3 seeds." in text
    )
    assert "Gradient is higher than that of Wanda" in text
    assert f"± {frame.spread.wanda:.3g}" in text


@pytest.mark.parametrize("level", [math.nan, math.inf, math.log(TABLE.max_perplexity) + 1])
def test_a_dense_model_that_is_no_language_model_stops_everything(level):
    with pytest.raises(SystemExit, match="max_perplexity"):
        table8.gate(TABLE, {"rows": [{"perplexity": math.exp(level)}]})
    table8.gate(TABLE, result(1.0, "dense"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": replace(TABLE.run, text="Salesforce/wikitext@main")}, "full commit"),
        ({"run": replace(TABLE.run, patterns=("half",))}, "a pattern is"),
    ],
)
def test_an_unsound_preset_is_refused(changes, message):
    preset = load_preset("smoke")
    with pytest.raises(ValueError, match=message):
        dry_run.check(replace(preset, table8=replace(TABLE, **changes)))
