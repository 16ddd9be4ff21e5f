"""Every task without the hub: splits that are disjoint, fixed and those of the committed results."""

import json

import pytest

from experiments.folders import RESULTS
from experiments.jobs.run import splits
from experiments.settings.jobs import RunConfig
from experiments.settings.validation import validated
from experiments.tasks import TASKS
from experiments.tasks.base import fingerprint


@pytest.mark.parametrize(
    "name",
    ["arithmetic", "gsm_symbolic", "movie_reviews", "product_reviews", "editorials", "tweets"],
)
def test_splits_are_disjoint_fixed_and_without_repetition(name):
    task = TASKS[name]
    test, validation = task.test(300), task.validation(300)
    train = task.train(2_000, seed=0)
    prompts = {e.prompt for e in test + validation}
    assert len(test) == len(validation) == 300
    assert len(prompts) == 600
    assert len(train) == 2_000
    assert len({e.prompt for e in train}) > 1_500
    assert prompts.isdisjoint(e.prompt for e in train)
    assert task.train(50, seed=0) == train[:50] != task.train(50, seed=1)
    assert task.test(20) == test[:20]


@pytest.mark.parametrize(
    ("name", "test", "validation", "train"),
    [
        ("arithmetic", "d72d12eb5997c13a", "cb54956ae50140ed", "522e4be11b60e79b"),
        ("gsm_symbolic", "fc5d288693bdf27f", "203768abd6082c56", "efd6167e4aabe250"),
        ("movie_reviews", "80bfe61332a485ef", "dd075e50cac93c98", "f82c9b58f1a1b3df"),
        ("product_reviews", "65a93a8bf74250d7", "268d97f4fd8629f6", "134bae571d9479d8"),
        ("tweets", "4a1d4d9e911ca9a0", "f1b6c9015b2e5328", "dfc22608ccbb5390"),
    ],
)
def test_packages_still_give_the_same_examples(name, test, validation, train):
    task = TASKS[name]
    splits = task.test(100), task.validation(100), task.train(200, seed=0)
    assert tuple(map(fingerprint, splits)) == (test, validation, train), (
        "the data are not what they were"
    )


@pytest.mark.parametrize("name", ["arithmetic", "movie_reviews"])
def test_the_data_are_those_of_the_committed_results(name):
    files = sorted((RESULTS / "cpu" / "runs").glob(f"{name}_*.json"))
    records = [json.loads(file.read_text()) for file in (files[0], files[-1])]
    for record in records:
        assert (
            splits(validated(RunConfig, record["config"], "config")) == record["result"]["splits"]
        )
