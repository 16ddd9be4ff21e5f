import json

import pytest

from paper_figures import figure2


def test_the_joint_mask_is_drawn_from_the_events_of_a_run(tmp_path):
    events = [{"step": 4, "removed": {"a.q": [1]}}, {"step": 6, "removed": {"a.q": [0]}}]
    config = {
        "initial_rank": 4,
        "target_rank": 2,
        "interval": 2,
        "per_event": 1,
        "warmup_steps": 2,
        "steps": 9,
    }
    record = {"config": config, "result": {"events": events}}
    steps, mask = figure2.alive(record, "a.q")
    assert steps == [0, 4, 6]
    assert mask.tolist() == [[True] * 4, [True, False, True, True], [False, False, True, True]]
    file = tmp_path / "run.json"
    file.write_text(json.dumps(record))
    for picture in figure2.draw(file, tmp_path / "figures"):
        assert picture.stat().st_size > 5_000
    file.write_text(json.dumps(record | {"result": {"events": []}}))
    with pytest.raises(ValueError, match="nothing was pruned"):
        figure2.draw(file, tmp_path)
