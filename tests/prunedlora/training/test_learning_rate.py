"""A scheduler is tried on a copy: the rates are those that training will see, and nothing else changes."""

import math

import pytest
import torch
from torch.optim import lr_scheduler
from transformers import get_scheduler

from prunedlora import LoraRankPruner, PruneConfig
from prunedlora.training.learning_rate import learning_rates, share_left
from tests.models import trainable

STEPS = 12
SCHEDULERS = {
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, STEPS + 1),
    "steps": lambda o: lr_scheduler.StepLR(o, 5, 0.1),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, [lambda i: 1 / (1 + i), lambda i: 1.0]),
    "warm-up, then cosine": lambda o: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.LinearLR(o, 0.1, 1.0, 3), lr_scheduler.CosineAnnealingLR(o, STEPS - 3)],
        [3],
    ),
    "transformers": lambda o: get_scheduler("linear", o, 2, STEPS),
}


def optimizer() -> torch.optim.Optimizer:
    groups = [
        {"params": [torch.ones(3, requires_grad=True)]},
        {"params": [torch.ones(2, requires_grad=True)], "lr": 0.3},
    ]
    return torch.optim.AdamW(groups, lr=0.1)


@pytest.mark.filterwarnings(
    "ignore:The epoch parameter"
)  # SequentialLR's own way to step its parts
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_rates_are_those_of_a_training_and_the_scheduler_stays_as_it_is(name):
    tried = optimizer()
    scheduler = SCHEDULERS[name](tried)
    before = [dict(group) for group in tried.param_groups]
    rates = learning_rates(scheduler, STEPS)
    assert [dict(group) for group in tried.param_groups] == before
    seen = []
    for _ in range(STEPS):
        seen.append(sum(group["lr"] for group in tried.param_groups) / 2)
        tried.step()
        scheduler.step()
    assert rates == pytest.approx(seen, rel=1e-12)


def test_a_scheduler_that_waits_for_a_metric_says_nothing():
    assert learning_rates(lr_scheduler.ReduceLROnPlateau(optimizer()), STEPS) is None


def test_the_share_counts_the_step_of_the_event_itself():
    assert share_left([1.0] * 10, 1) == 1
    assert share_left([1.0] * 10, 10) == pytest.approx(0.1)
    assert share_left([0.0] * 10, 5) == 1


def pruner(lora, scheduler_of, **schedule):
    model = lora()
    adamw = torch.optim.AdamW(trainable(model), lr=0.1)
    config = PruneConfig(target_rank=4, criterion="magnitude", **schedule)
    return LoraRankPruner(model, adamw, config, total_steps=100, scheduler=scheduler_of(adamw))


def test_a_last_event_that_leaves_little_is_warned_of_once(lora, caplog):
    pruner(lora, lambda o: get_scheduler("cosine", o, 0, 100), interval=40, per_event=2).close()
    (record,) = caplog.records
    rates = [1 + math.cos(math.pi * i / 100) for i in range(100)]
    left = 100 * sum(rates[89:]) / sum(rates)
    assert f"at step 90 of 100, leaves {left:.1f} % of the sum of all" in record.getMessage()


@pytest.mark.parametrize(
    "scheduler_of",
    [
        lambda o: get_scheduler("constant", o),
        lambda o: lr_scheduler.ReduceLROnPlateau(o),
        lambda _: None,
    ],
)
def test_nothing_is_said_where_enough_is_left_or_nothing_is_known(lora, caplog, scheduler_of):
    pruner(lora, scheduler_of, interval=40, per_event=2).close()
    assert not caplog.records


def test_an_early_end_is_not_warned_of(lora, caplog):
    pruner(lora, lambda o: get_scheduler("cosine", o, 0, 100), interval=10, per_event=2).close()
    assert not caplog.records
