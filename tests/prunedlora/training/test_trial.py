"""Optimisers of every kind, judged before their first step."""

import copy

import pytest
import torch
from torch import nn

from prunedlora.errors import UnsupportedOptimizerError
from prunedlora.training.optimizers import unwrap_optimizer
from prunedlora.training.trial import state_of_trial

SUITABLE = {
    "AdamW": {},
    "Adam": {"amsgrad": True, "weight_decay": 0.1},
    "NAdam": {},
    "RAdam": {},
    "Adamax": {},
    "SGD": {"lr": 10.0, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "RMSprop": {"centered": True, "momentum": 0.5},
    "Adagrad": {},
    "Adadelta": {},
    "Rprop": {},
}


class ScheduleFree(torch.optim.Optimizer):
    """The update of schedule-free SGD."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1, "k": 0})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group["k"] += 1
            c = 1 / group["k"]
            for p in group["params"]:
                z = self.state[p].setdefault("z", p.clone())
                p.lerp_(z, c).add_(p.grad, alpha=group["lr"] * (0.9 * (1 - c) - 1))
                z.sub_(p.grad, alpha=group["lr"])


class SlowWeights(torch.optim.SGD):
    """Every five steps half-way back to where it was five steps before, as Lookahead does."""

    def step(self):
        super().step()
        for p in self.param_groups[0]["params"]:
            state = self.state[p]
            state["count"] = state.get("count", 0) + 1
            if state["count"] % 5 == 0:
                slow = state.setdefault("slow", p.detach().clone())
                slow.lerp_(p.detach(), 0.5)
                p.data.copy_(slow)


class Coded(torch.Tensor):
    """A tensor that nothing can be computed of, as the state of an 8-bit optimiser."""

    @staticmethod
    def __new__(cls, t):
        return torch.Tensor._make_wrapper_subclass(cls, t.shape, dtype=t.dtype)

    def __init__(self, t):
        self.t = t

    @classmethod
    def __torch_dispatch__(cls, function, types, args, kwargs=None):
        raise NotImplementedError(str(function))


class KeepsCoded(torch.optim.SGD):
    def step(self):
        super().step()
        for p in self.param_groups[0]["params"]:
            self.state[p]["coded"] = Coded(torch.zeros_like(p))


class KeepsInDict(torch.optim.SGD):
    def step(self):
        super().step()
        for p in self.param_groups[0]["params"]:
            self.state[p]["both"] = {"mean": torch.zeros_like(p)}


class TwoModes(torch.optim.SGD):
    def train(self): ...

    def eval(self): ...


class NeedsItsLoop(torch.optim.SGD):
    def step(self):
        if not self.begun:
            raise RuntimeError


class Wrapper(torch.optim.Optimizer):
    """Around another, as Lookahead is often written."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.param_groups = optimizer.param_groups
        self.state = {}


def parameters():
    return [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(5, 3))]


@pytest.mark.parametrize("name", SUITABLE)
def test_optimisers_that_keep_moments_may_train_and_are_left_alone(name):
    params = parameters()
    optimizer = getattr(torch.optim, name)(params, **SUITABLE[name])
    torch.optim.lr_scheduler.LinearLR(optimizer)  # puts a method of its own around step
    before = [p.detach().clone() for p in params]
    groups = copy.deepcopy(optimizer.param_groups)
    kept = str(optimizer.state)
    random = torch.get_rng_state()
    for p in params:
        p.grad = torch.ones_like(p)
    state = state_of_trial(optimizer, params[1])
    assert any(isinstance(t, torch.Tensor) and t.shape == (5, 3) for t in state.values())
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))
    assert str(optimizer.state) == kept
    assert [{**g, "params": 0} for g in optimizer.param_groups] == [
        {**g, "params": 0} for g in groups
    ]
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.supports("schedule-free", "none", "own loop", "float32", verdict="refused")
@pytest.mark.supports("Lookahead", "none", "own loop", "float32", verdict="refused")
@pytest.mark.supports(
    "8-bit and other coded state", "none", "own loop", "float32", verdict="refused"
)
@pytest.mark.supports("Adafactor", "none", "own loop", "float32", verdict="refused")
@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (ScheduleFree, "second copy"),
        (SlowWeights, "second copy"),
        (TwoModes, "second copy"),
        (KeepsCoded, "keeps 'coded' as Coded"),
        (KeepsInDict, "keeps 'both', a dict of tensors"),
        (torch.optim.Adafactor, "of shape"),
    ],
)
def test_optimisers_that_cannot_follow_an_event_are_refused(kind, match):
    params = parameters()
    with pytest.raises(UnsupportedOptimizerError, match=match):
        state_of_trial(kind(params), params[0])


def test_an_optimiser_that_cannot_be_tried_is_left_to_later_checks():
    params = parameters()
    assert state_of_trial(NeedsItsLoop(params), params[0]) == {}


def test_a_wrapper_with_weights_of_its_own_is_refused():
    with pytest.raises(UnsupportedOptimizerError, match="Wrapper keeps state of its own beside"):
        unwrap_optimizer(Wrapper(torch.optim.SGD(parameters())))
