"""How long a run is expected to take."""

from dataclasses import asdict, replace

from experiments.running.durations import OVERHEAD, Durations
from experiments.running.runner import file_of
from experiments.settings.jobs import RunConfig
from theory.records import to_json, write_atomically

RUN = RunConfig("minilm", "tweets", "lora", 8, 8)


def keep(folder, run, seconds):
    result = {"train_seconds": seconds, "evaluation_seconds": 1.0}
    write_atomically(folder / file_of(run), to_json({"config": asdict(run), "result": result}))


def test_a_run_takes_as_long_as_it_did_or_as_those_like_it(tmp_path):
    for seed, seconds in enumerate((10.0, 20.0, 90.0)):
        keep(tmp_path, replace(RUN, seed=seed), seconds)
    keep(tmp_path, replace(RUN, method="full"), 500.0)
    durations = Durations(tmp_path)
    assert durations.of(replace(RUN, seed=2)) == 91.0 + OVERHEAD
    # The median of runs of the same model, task and steps, whatever their rank or rule.
    pruned = replace(RUN, method="prune", criterion="svd", initial_rank=64)
    assert durations.of(pruned) == 21.0 + OVERHEAD
    assert durations.of(replace(RUN, method="full", seed=5)) == 501.0 + OVERHEAD
    assert durations.of(replace(RUN, steps=7)) is None


def test_nothing_is_known_where_nothing_was_done(tmp_path):
    assert Durations(tmp_path).of(RUN) is None
