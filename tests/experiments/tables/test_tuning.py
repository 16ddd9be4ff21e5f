"""The search for a learning rate: outwards from the middle, until the best lies inside what was tried."""

import math
from dataclasses import replace

import pytest

from experiments.settings.jobs import RunConfig
from experiments.tables.tuning import Tuning

RATES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
RUN = RunConfig("tiny", "arithmetic", "lora", 4, 4)


def search(loss, rates=RATES, run=RUN):
    """What is tried, in order, and what is chosen, for a loss that depends on the rate."""
    tuning, results, tried = Tuning(rates, (0,)), {}, []

    def build(tune):
        return tune(run)

    while missing := tuning.missing(results, build):
        tried += [run.learning_rate for run in missing]
        results |= {
            run.key: {"validation": {"cross_entropy": loss(run.learning_rate)}} for run in missing
        }
    return tried, tuning.chooser(results)(run).learning_rate


@pytest.mark.parametrize("best", RATES)
def test_the_least_loss_is_found_without_trying_what_lies_beyond_its_neighbours(best):
    tried, chosen = search(lambda rate: abs(math.log10(rate / best)))
    assert chosen == best
    assert len(tried) == len(set(tried)) == {1e-5: 4, 1e-4: 4, 1e-3: 3, 1e-2: 4, 1e-1: 4}[best]
    neighbours = RATES[max(0, RATES.index(best) - 1) : RATES.index(best) + 2]
    assert set(neighbours) <= set(tried)


def test_full_fine_tuning_does_not_stop_where_it_learns_from_scratch():
    losses = dict(zip(RATES, (0.3, 0.9, 0.8, 1.1, 1.2), strict=True))
    assert search(losses.get)[1] == 1e-3
    assert search(losses.get, run=replace(RUN, method="full")) == ([1e-5, 1e-4, 1e-3], 1e-5)


def test_training_that_breaks_down_is_no_choice():
    assert search(lambda rate: math.nan if rate > 1e-4 else rate)[1] == 1e-5


def test_short_lists():
    assert search(lambda rate: rate, rates=(1e-3, 1e-2)) == ([1e-3, 1e-2], 1e-3)
    assert search(lambda rate: rate, rates=(1e-3,)) == ([], RUN.learning_rate)
    with pytest.raises(ValueError, match="ascend"):
        Tuning((1e-2, 1e-3), (0,))


def test_what_is_truncated_asks_for_what_it_is_made_from():
    cut = replace(RUN, method="truncate", criterion="svd", target_rank=2)
    (first, *_) = Tuning(RATES, (5,)).missing({}, lambda tune: tune(cut))
    assert (first.method, first.target_rank, first.seed) == ("lora", 4, 5)


@pytest.mark.parametrize(
    ("on_others", "chosen", "seen"),
    [
        ({1e-3: 0.52}, 1e-3, {1e-3}),  # the mean, 0.51, stays the least
        (
            {1e-3: 0.90, 1e-4: 0.50},
            1e-4,
            {1e-3, 1e-4},
        ),  # it falls behind what 1e-4 reached on the first seed
        ({1e-3: 0.90, 1e-4: 0.95}, 1e-3, {1e-3, 1e-4}),  # which does not hold on the others either
        ({1e-3: math.nan, 1e-4: math.nan, 1e-5: 0.85}, 1e-5, {1e-3, 1e-4, 1e-5}),
    ],
)
def test_a_rate_must_hold_on_all_seeds(on_others, chosen, seen):
    on_first = {1e-5: 0.80, 1e-4: 0.55, 1e-3: 0.50, 1e-2: 0.90, 1e-1: 0.99}
    tuning, results, tried = Tuning(RATES, (0, 1, 2)), {}, []

    def build(tune):
        return tune(RUN)

    while missing := tuning.missing(results, build):
        tried += missing
        losses = {
            run.key: (on_others if run.seed else on_first)[run.learning_rate] for run in missing
        }
        results |= {key: {"validation": {"cross_entropy": loss}} for key, loss in losses.items()}
    assert {(run.learning_rate, run.seed) for run in tried if run.seed} == {
        (r, s) for r in seen for s in (1, 2)
    }
    assert len(tried) == len({run.key for run in tried})
    assert tuning.chooser(results)(RUN).learning_rate == chosen
    assert (1e-5 in {run.learning_rate for run in tried}) == (
        1e-4 in seen
    )  # the new best has its neighbours tried
