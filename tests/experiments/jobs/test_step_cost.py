"""The cost of a step: blocks of a run and of its reference, in turn."""

from dataclasses import replace

from experiments.jobs import step_cost
from experiments.settings.jobs import Cost
from experiments.settings.preset import load_preset

SMOKE = load_preset("smoke")


def test_blocks_of_both_are_timed_in_turn_and_every_event_has_its_block():
    run = replace(
        SMOKE.run,
        method="prune",
        criterion="svd",
        initial_rank=8,
        target_rank=4,
        steps=8,
        interval=1,
    )
    reference = replace(SMOKE.run, initial_rank=4, target_rank=4, steps=8)
    found = step_cost.measure(Cost(run, reference, block=2))
    assert len(found["run"]) == len(found["reference"]) == 3
    assert [e["block"] for e in found["events"]] == [
        0,
        0,
    ]  # at steps 3 and 4, the second of four blocks
    assert all(e["seconds"] > 0 for e in found["events"])
