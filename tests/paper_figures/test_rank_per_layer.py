import json

from paper_figures import rank_per_layer


def test_the_rank_of_every_module_is_drawn_from_the_events_of_its_run(tmp_path):
    names = [f"base_model.model.bert.layer.{i}.query" for i in range(4)]
    events = [{"step": s, "ranks": {n: 8 - s * i for i, n in enumerate(names)}} for s in (1, 2)]
    record = {"config": {"initial_rank": 8}, "result": {"events": events}}
    frame = rank_per_layer.ranks(record)
    assert frame.columns.tolist() == [0, 1, 2]
    assert frame.loc["layer.2.query"].tolist() == [8, 6, 4]
    run = tmp_path / "run.json"
    run.write_text(json.dumps(record))
    for file in rank_per_layer.draw(run, tmp_path / "figures"):
        assert file.stat().st_size > 5_000
