"""How often an event waits for the device, counted without one: by the operations that give a number to the host."""

import peft
import pytest
import torch
from torch import nn

from prunedlora import LoraRankPruner, PruneConfig, find_lora_modules
from prunedlora.criteria import available_criteria, get_criterion
from prunedlora.errors import NonFiniteError
from prunedlora.linalg.numerics import Ways, assuming, fits, holds, optimistically
from tests.dispatch import Operations

#: Fits each module by as many steps as it needs.
DATA_DEPENDENT = ("svd_fisher",)


def waits(criterion, modules, monkeypatch, events=2, *, conditioned=False):
    """How often each event waits, in a training of so many equal layers, and how many groups there were.

    With `conditioned`, the factors hardly move from where their components are independent beyond doubt.
    """
    torch.manual_seed(0)
    layers = nn.Sequential(*(nn.Linear(12, 12) for _ in range(modules)), nn.Linear(12, 2))
    model = peft.get_peft_model(
        layers,
        peft.LoraConfig(r=2 + 2 * events, target_modules=[str(i) for i in range(modules)]),
    )
    rate = 0.01
    if conditioned:
        rate = 1e-5
        for module in find_lora_modules(model):
            nn.init.orthogonal_(module.B)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    config = PruneConfig(2, criterion, interval=2, per_event=2, warmup_steps=2)
    steps = 2 + 2 * events
    with LoraRankPruner(model, optimizer, config, total_steps=steps) as pruner:
        prune = pruner._prune
        counts, groups = [], []

        def counted(*args):
            before = pruner.ranks
            with monkeypatch.context() as patched, Operations(patched) as mode:
                prune(*args)
            counts.append(mode.waits)
            groups.append(
                (len(set(before.values())), len({(before[n], r) for n, r in pruner.ranks.items()}))
            )

        pruner._prune = counted
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(
                model(torch.randn(32, 12)), torch.randint(2, (32,))
            ).backward()
            optimizer.step()
    assert len(counts) == events
    return counts, groups


@pytest.mark.parametrize("name", sorted(set(available_criteria()) - set(DATA_DEPENDENT)))
def test_an_event_waits_as_often_for_eight_modules_as_for_two(name, monkeypatch):
    few, _ = waits(name, 2, monkeypatch)
    many, groups = waits(name, 8, monkeypatch)
    criterion = get_criterion(name)
    if not criterion.rotates:
        assert few == many == [1, 1]
    elif criterion.settings.get("scope") != "global":
        # Which decomposition will do is decided on the way, once for all modules of a shape.
        assert few == many
        assert max(many) <= 12
    else:
        # One budget gives modules other ranks; those of one rank, before and after, go together.
        for count, (ranks, changes) in zip(many, groups, strict=True):
            assert count <= 3 + 3 * ranks + 6 * changes


#: Rules whose decompositions are chosen by the factors.
CHOOSING = [n for n in available_criteria() if get_criterion(n).rotates and n not in DATA_DEPENDENT]


@pytest.mark.parametrize("name", sorted(CHOOSING))
def test_an_event_waits_once_where_the_two_before_took_the_same_decompositions(name, monkeypatch):
    counts, groups = waits(name, 8, monkeypatch, events=4, conditioned=True)
    # One budget over all modules needs their scores on the host, where they are rounded, to give them ranks.
    least = 3 if get_criterion(name).settings.get("scope") == "global" else 1
    assert counts[0] > least
    assert counts[2:] == [least, least]
    # However many ranks there are.
    assert least == 1 or min(ranks for ranks, _ in groups[2:]) > 1


@pytest.mark.parametrize("settings", [{"window": 2}, {"decay": 0.5}])
@pytest.mark.parametrize("name", ["adalora2023", "prunedlora2025", "kfac", "magnitude"])
def test_steps_wait_at_events_only_and_then_once(name, settings, monkeypatch):
    counts = []
    for hook in ("_before_step", "_after_step"):
        monkeypatch.setattr(LoraRankPruner, hook, counting(hook, counts, monkeypatch))
    torch.manual_seed(0)
    model = peft.get_peft_model(
        nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 2)),
        peft.LoraConfig(r=6, target_modules=["0"]),
    )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    config = PruneConfig(target_rank=2, criterion=name, interval=3, warmup_steps=2, **settings)
    with LoraRankPruner(model, optimizer, config, total_steps=9) as pruner:
        for _ in range(9):
            optimizer.zero_grad()
            model(torch.randn(32, 12)).square().mean().backward()
            optimizer.step()
    events = {event.step for event in pruner.events}
    assert events == {5, 8}
    # Two hooks a step.
    assert counts == [int(hook == 0 and step in events) for step in range(1, 10) for hook in (0, 1)]


def counting(hook, counts, monkeypatch):
    """A hook of the pruner that notes how often it waited."""
    original = getattr(LoraRankPruner, hook)

    def counted(*args):
        with monkeypatch.context() as patched, Operations(patched) as mode:
            original(*args)
        counts.append(mode.waits)

    return counted


def test_the_count_sees_what_waits(monkeypatch):
    t = torch.tensor([1.0, 0.0])
    with monkeypatch.context() as patched, Operations(patched) as mode:
        bool(t.any()), t.nonzero(), t[t > 0], t.sum().item(), t.tolist()
        t + t, t.where(t > 0, 1.0), t[torch.tensor([0])]
    assert mode.waits == 5


def test_a_condition_is_read_at_once_or_assumed():
    false = torch.tensor([True, False])
    assert not holds(false)
    with assuming() as assumed:
        assert holds(false)
        assert holds(torch.tensor(True))
    assert [bool(c) for c in assumed.conditions] == [False, True]
    assert not holds(false)


def test_where_an_assumption_fails_it_is_computed_again_and_waits():
    runs = []

    def compute(ok):
        runs.append(ok)
        return torch.ones(2) if holds(torch.tensor(ok)) else torch.zeros(3)

    out, values = optimistically(lambda: compute(True), lambda t: [t, t.sum()])
    assert (out.tolist(), values, len(runs)) == ([1.0, 1.0], [[1.0, 1.0], [2.0]], 1)
    out, values = optimistically(lambda: compute(False), lambda t: [t])
    assert (out.tolist(), values, len(runs)) == ([0.0, 0.0, 0.0], [[0.0, 0.0, 0.0]], 3)


def test_a_way_is_expected_after_it_was_taken_twice_and_outcomes_never_depend_on_that(monkeypatch):
    ways = Ways()

    def run(*conditions):
        """Outcome and waits of a computation that comes to one place once for each condition."""
        tensors = [torch.tensor(c) for c in conditions]
        with monkeypatch.context() as patched, Operations(patched) as mode:
            out, _ = optimistically(
                lambda: torch.tensor([1.0 if fits(t, "place") else 2.0 for t in tensors]),
                lambda _: [],
                ways,
            )
        assert out.tolist() == [1.0 if c else 2.0 for c in conditions]
        return mode.waits

    # Each decision, and the end.
    first = run(False)
    assert run(False) == first
    once = run(False)
    assert once == first - 1
    assert run(False, False, False) == once
    # A wrong expectation: the end of the first computation, then each decision of the second, which reads nothing.
    assert run(True, True, True) == once + 3
    assert run(True) == first
    assert run(True) == once
    # Where both ways are taken at one place, none is expected.
    run(True, False)
    run(True, False)
    assert run(True, False) == first + 1


def test_errors_of_an_assumption_are_those_of_the_run_that_waits():
    def compute():
        if not holds(torch.tensor(False)):
            raise NonFiniteError("the cause")
        raise RuntimeError("what came of it")

    with pytest.raises(NonFiniteError, match="the cause"):
        optimistically(compute, lambda _: [])

    def without_conditions():
        raise RuntimeError("its own")

    with pytest.raises(RuntimeError, match="its own"):
        optimistically(without_conditions, lambda _: [])


def test_a_stack_is_no_larger_than_allowed_and_parts_choose_alike(monkeypatch):
    whole, _ = waits("svd", 8, monkeypatch)
    monkeypatch.setattr("prunedlora.ranks.reduction.STACKED_ON_CPU", 3 * 12 * 6)
    parts, _ = waits("svd", 8, monkeypatch)
    assert parts[0] > whole[0]
    assert waits("kfac", 8, monkeypatch)[0] == [1, 1]
