import numpy as np
import pandas as pd
import pytest

from experiments.tables import one_shot


def record(kfac: float, svd: float) -> dict:
    def row(criterion, mean):
        increases = (mean + 0.1 * np.sin(np.arange(200))).tolist()
        facts = {
            "criterion": criterion,
            "recovery": "own",
            "options": {},
            "rank": 2,
            "test_standard_error": 0.01,
        }
        return {
            **facts,
            "test_increase": mean,
            "calibration_increase": mean,
            "test_increases": increases,
        }

    return {"rows": [row("svd", svd), row("svd_kfac", kfac)]}


@pytest.mark.parametrize(
    ("kfac", "says"), [(0.1, "loses less than svd"), (0.4, "loses more than svd")]
)
def test_the_text_follows_the_numbers(kfac, says):
    records = [record(kfac, 0.2), record(kfac, 0.2)]
    compared = one_shot.comparisons(records)
    text = one_shot.sentences(one_shot.ranking(records), compared)
    assert compared[0]["ratio"] == pytest.approx(kfac / 0.2, abs=0.01)
    assert any(f"svd_kfac at rank 2 {says}" in line for line in text)
    assert f"Rank 2: least loss with {'svd_kfac' if kfac < 0.2 else 'svd'} " in text[0]


def test_the_mean_over_ranks_stands_beside_that_of_svd():
    frame = one_shot.ranking([record(0.1, 0.2)])
    frame = pd.concat([frame, frame.assign(rank=4, test=frame["test"] / 2)])
    table = one_shot.by_rank(frame)
    assert "| svd_kfac    |   0.1000 |   0.0500 | 0.0750 |            0.5000 |" in table
    assert table.splitlines()[2].split()[1] == "svd_kfac"
