"""A pruner is attached to one optimiser, one model and one adapter, and notices others."""

import copy
import gc

import peft
import pytest
import torch
from torch import nn

from prunedlora import LoraRankPruner, PruneConfig, export_adapter, find_lora_modules
from prunedlora.errors import ConfigurationError, UnsupportedOptimizerError
from tests.models import ids, step, trainable
from tests.prunedlora.training.test_trial import KeepsCoded, ScheduleFree

CONFIG = PruneConfig(target_rank=2, criterion="magnitude", interval=2, per_event=3, warmup_steps=1)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(trainable(model), lr=0.1)


def backward(model: nn.Module) -> torch.Tensor:
    tokens = ids()
    loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    return loss


@pytest.mark.parametrize("by_name", [False, True])
def test_a_closure_is_refused_since_gradients_would_be_those_of_the_step_before(lora, by_name):
    model = lora()
    optimizer = sgd(model)
    before = copy.deepcopy(model.state_dict())
    pruner = LoraRankPruner(model, optimizer, CONFIG, total_steps=9)
    closure = lambda: backward(model)  # noqa: E731
    with pytest.raises(ConfigurationError, match="closure"):
        optimizer.step(closure=closure) if by_name else optimizer.step(closure)
    optimizer.step(None)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    pruner.close()


@pytest.mark.parametrize("when", [1, 8])
def test_another_optimiser_on_the_same_factors_is_an_error_at_its_first_step(lora, when):
    model = lora()
    first, other = sgd(model), sgd(model)
    elsewhere = torch.optim.SGD([nn.Parameter(torch.ones(2))])
    pruner = LoraRankPruner(model, first, CONFIG, total_steps=9)
    for _ in range(when):
        step(model, first)
    elsewhere.step()
    with pytest.raises(ConfigurationError, match="another optimiser trains base_model"):
        step(model, other)
    pruner.close()
    step(model, other)


def test_a_pruner_that_nobody_refers_to_any_more_stops_no_optimiser(lora):
    model = lora()
    LoraRankPruner(model, sgd(model), CONFIG, total_steps=9)
    gc.collect()
    step(model, sgd(model))
    LoraRankPruner(model, sgd(model), CONFIG, total_steps=9)
    LoraRankPruner(model, sgd(model), CONFIG, total_steps=9).close()


def test_a_second_pruner_on_the_same_adapter_is_refused_until_the_first_is_closed(lora):
    model = lora()
    optimizer = sgd(model)
    first = LoraRankPruner(model, optimizer, CONFIG, total_steps=9)
    with pytest.raises(ConfigurationError, match="another LoraRankPruner"):
        LoraRankPruner(model, optimizer, CONFIG, total_steps=9)
    other = lora()
    LoraRankPruner(other, sgd(other), CONFIG, total_steps=9).close()
    first.close()
    LoraRankPruner(model, optimizer, CONFIG, total_steps=9).close()


@pytest.mark.parametrize("kind", [KeepsCoded, ScheduleFree])
def test_unsuitable_optimisers_are_refused_at_once_and_leave_no_hooks(lora, kind):
    model = lora()
    optimizer = kind(trainable(model))
    with pytest.raises(UnsupportedOptimizerError):
        LoraRankPruner(model, optimizer, CONFIG, total_steps=9)
    assert not optimizer._optimizer_step_pre_hooks


class KeepsCodedLater(KeepsCoded):
    """Cannot be tried."""

    def step(self):
        if self.state.default_factory is dict and len(self.param_groups[0]["params"]) == 1:
            raise RuntimeError
        super().step()


def test_what_a_trial_cannot_tell_is_noticed_before_the_second_step(lora):
    model = lora()
    optimizer = KeepsCodedLater(trainable(model))
    pruner = LoraRankPruner(model, optimizer, CONFIG, total_steps=9)
    step(model, optimizer)
    with pytest.raises(UnsupportedOptimizerError, match="coded"):
        step(model, optimizer)
    assert (pruner.step, pruner.events) == (1, [])
    pruner.close()


class Derived(torch.optim.SGD):
    """Its step calls that of its base class, so that torch calls the hooks twice."""

    def step(self):
        super().step()
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p.add_(1e-3)


def test_a_step_counts_once_where_an_optimiser_calls_that_of_its_base_class(lora):
    model = lora()
    torch.optim.SGD(trainable(model))
    optimizer = Derived(trainable(model), lr=0.1)
    with LoraRankPruner(model, optimizer, CONFIG, total_steps=9) as pruner:
        for _ in range(9):
            step(model, optimizer)
    assert (pruner.step, [event.step for event in pruner.events]) == (9, [3, 5])


def test_an_adapter_that_is_being_pruned_is_not_exported_nor_is_a_copy_made_before(lora, tmp_path):
    model = lora()
    optimizer = sgd(model)
    with LoraRankPruner(model, optimizer, CONFIG, total_steps=9):
        average = torch.optim.swa_utils.AveragedModel(model)
        for _ in range(9):
            step(model, optimizer)
        with pytest.raises(ConfigurationError, match=r"finish\(\)"):
            export_adapter(model, tmp_path / "early")
    with pytest.raises(ConfigurationError, match="average of weights"):
        export_adapter(average.module, tmp_path / "average")
    assert list(tmp_path.iterdir()) == []
    export_adapter(model, tmp_path / "adapter")
    export_adapter(copy.deepcopy(model), tmp_path / "copy")


@pytest.mark.parametrize("fisher_per", ["sample", "micro_batch"])
@pytest.mark.parametrize("criterion", ["svd_kfac", "fisher", "svd_fisher"])
def test_a_deep_copy_feeds_no_statistics(lora, criterion, fisher_per):
    def removed(copied: bool):
        torch.manual_seed(3)
        model = lora()
        optimizer = sgd(model)
        config = PruneConfig(
            target_rank=4, criterion=criterion, interval=3, warmup_steps=1, fisher_per=fisher_per
        )
        with LoraRankPruner(model, optimizer, config, total_steps=7) as pruner:
            for _ in range(7):
                if copied:
                    with torch.random.fork_rng():
                        backward(copy.deepcopy(model))
                step(model, optimizer)
        return [event.cost for event in pruner.events]

    assert removed(False) == removed(True)


@pytest.mark.parametrize(
    ("criterion", "settings"),
    [
        ("sparsegpt2023", {}),
        ("kfac", {"window": 2}),
        ("svd_fisher", {"interval": 1}),
        ("fisher", {"decay": 0.9}),
        ("fisher", {"fisher_per": "sample"}),
    ],
)
def test_a_step_that_the_scaler_skips_leaves_no_trace_in_the_statistics(lora, criterion, settings):
    def outcome(skips: tuple[int, ...]):
        torch.manual_seed(3)
        model = lora()
        optimizer = sgd(model)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1000)
        other = torch.randint(0, 32, (4, 6), generator=torch.Generator().manual_seed(1))

        def one(tokens: torch.Tensor, overflow: bool) -> None:
            scaler.scale(model(input_ids=tokens, labels=tokens).loss).backward()
            if overflow:
                find_lora_modules(model)[0].B.grad[0, 0] = float("inf")
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()

        config = PruneConfig(
            **{
                "target_rank": 4,
                "criterion": criterion,
                "interval": 2,
                "warmup_steps": 1,
                **settings,
            }
        )
        with LoraRankPruner(
            model, optimizer, config, total_steps=6, loss_scale=scaler.get_scale
        ) as pruner:
            for i in range(6):
                for _ in range(skips.count(i)):
                    one(other, overflow=True)
                one(ids(), overflow=False)
        return [(event.removed, event.cost) for event in pruner.events]

    plain = outcome(())
    for skips in ((2,), (0, 2, 2, 4)):
        skipped = outcome(skips)
        assert [removed for removed, _ in skipped] == [removed for removed, _ in plain]
        for (_, cost), (_, expected) in zip(skipped, plain, strict=True):
            assert cost == pytest.approx(expected, rel=1e-9)


@pytest.mark.supports("AdamW", "torch.compile", "own loop", "float32")
@pytest.mark.parametrize("in_place", [False, True])
def test_a_model_that_was_compiled_and_used_before_gives_the_same_statistics(in_place):
    def costs(compiled: bool):
        torch.manual_seed(3)
        layers = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))
        settings = peft.LoraConfig(r=8, target_modules=["0", "2"], init_lora_weights=False)
        model = ready = peft.get_peft_model(layers, settings)
        optimizer = sgd(model)
        if compiled and in_place:
            model.compile(backend="eager")
        elif compiled:
            ready = torch.compile(model, backend="eager")
        ready(torch.ones(5, 8)).square().mean().backward()
        optimizer.zero_grad()
        config = PruneConfig(
            target_rank=4, criterion="svd_kfac", interval=2, warmup_steps=1, window=2
        )
        with LoraRankPruner(model, optimizer, config, total_steps=7) as pruner:
            for _ in range(7):
                optimizer.zero_grad()
                ready(torch.randn(5, 8)).square().mean().backward()
                optimizer.step()
        return [event.cost for event in pruner.events]

    expected = costs(False)
    assert len(expected) == 2
    assert costs(True) == pytest.approx(expected, rel=1e-6)


def test_a_pruner_says_what_it_will_do_and_what_it_has_done(lora, caplog):
    model = lora()
    optimizer = sgd(model)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=9)
    with caplog.at_level("INFO", logger="prunedlora.training.pruner"):
        pruner = LoraRankPruner(model, optimizer, CONFIG, total_steps=9, scheduler=scheduler)
        line = "pruning 6 modules from rank 8 to rank 2 in 2 events at steps 3 to 5; needs 5 of 9 steps"
        assert [r.getMessage() for r in caplog.records] == [line]
        assert line in repr(pruner)
        assert [(s, set(ranks.values())) for s, ranks in pruner.plan()] == [(3, {5}), (5, {2})]
        with pruner:
            for _ in range(9):
                step(model, optimizer)
        assert "event 2 of 2, mean rank 2" in caplog.text
    assert pruner.report().splitlines()[3].split()[:3] == ["5", "2", "18"]
    assert "2 of 2 events" in repr(pruner)
    log = pruner.numbers()
    assert (log["pruning/rank"], log["pruning/events"]) == (2, 2)
    assert log["pruning/learning_rate_left"] == pytest.approx(15 / 45)


@pytest.mark.supports(
    "AdamW",
    "DataParallel, if passes are watched",
    "own loop",
    "float32",
    verdict="refused",
)
def test_data_parallel_is_refused_where_its_copies_would_hide_the_statistics(lora):
    model = lora()
    parallel, optimizer = nn.DataParallel(model), sgd(model)
    config = PruneConfig(target_rank=4, criterion="kfac", interval=2, warmup_steps=1)
    with pytest.raises(ConfigurationError, match="torchrun"):
        LoraRankPruner(parallel, optimizer, config, total_steps=9)
    LoraRankPruner(parallel, optimizer, CONFIG, total_steps=9).close()
