"""Every criterion inside `LoraRankPruner`: statistics, budgets and optimiser state in a training loop."""

import copy

import peft
import pytest
import torch
from torch import nn

from prunedlora import LoraRankPruner, PruneConfig
from prunedlora.adapters.modules import find_lora_modules
from prunedlora.criteria import available_criteria, get_criterion
from prunedlora.errors import ConfigurationError, UnsupportedOptimizerError
from tests.layers import generator, relative


def make(r=6, dtype=torch.float32):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 2))
    model = peft.get_peft_model(
        model, peft.LoraConfig(r=r, lora_alpha=12, target_modules=["0", "2"])
    ).to(dtype)
    return model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)


def batch(seed, n=16):
    x = torch.randn(n, 7, generator=generator(seed))
    return x, (x[:, 0] * x[:, 1] > 0).long()


def train(model, optimizer, config, steps=24, accumulate=1, **kwargs):
    with LoraRankPruner(model, optimizer, config, total_steps=steps, **kwargs) as pruner:
        for step in range(steps):
            optimizer.zero_grad()
            x, y = (t.chunk(accumulate) for t in batch(step))
            for part, labels in zip(x, y, strict=True):
                (nn.functional.cross_entropy(model(part), labels) / accumulate).backward()
            optimizer.step()
    return pruner


def config(name, **settings):
    return PruneConfig(
        **{"target_rank": 2, "criterion": name, "interval": 4, "per_event": 1, "warmup_steps": 4}
        | settings
    )


def no_hooks_left(model):
    return not any(
        module._forward_hooks
        or module._forward_pre_hooks
        or any(p._backward_hooks for p in module.parameters())
        for module in model.modules()
    )


@pytest.mark.parametrize(
    "settings", [{}, {"window": 3}, {"decay": 0.9}, {"scope": "global"}], ids=str
)
@pytest.mark.parametrize("name", available_criteria())
def test_every_criterion_prunes(name, settings):
    criterion = get_criterion(name)
    if "scope" in settings and (
        criterion.unit == "none" or criterion.settings.get("scope") == "module"
    ):
        with pytest.raises(ConfigurationError, match="scope"):
            config(name, **settings)
        return
    model, optimizer = make()
    options = {"max_iter": 5} if name == "svd_fisher" else {}
    pruner = train(model, optimizer, config(name, options=options, **settings))
    assert len(pruner.events) == 4
    ranks = [m.rank for m in find_lora_modules(model)]
    assert sum(ranks) == 4
    assert min(ranks) >= 1
    assert no_hooks_left(model)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_global_budget_moves_rank_to_where_it_matters():
    model, optimizer = make()
    for parameter in (find_lora_modules(model)[0].A, find_lora_modules(model)[0].B):
        parameter.register_hook(lambda g: 1e-3 * g)
    optimizer.param_groups[0]["lr"] = 0.02
    pruner = train(
        model,
        torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5),
        config("svd", scope="global"),
    )
    first, second = pruner.ranks.values()
    assert (first, second) == (1, 3)
    adapter = model.peft_config["default"]
    assert adapter.r == 3
    assert list(adapter.rank_pattern.values()) == [1]


def test_global_budget_with_rounding_and_parameters():
    model, optimizer = make(r=8)
    pruner = train(
        model, optimizer, config("magnitude", scope="global", target_rank=4, round_to=2, min_rank=2)
    )
    assert all(rank % 2 == 0 and rank >= 2 for rank in pruner.ranks.values())
    assert sum(pruner.ranks.values()) <= 8
    model, optimizer = make()
    pruner = train(model, optimizer, config("magnitude", scope="global", budget="parameters"))
    sizes = [m.B.shape[0] + m.A.shape[1] for m in find_lora_modules(model)]
    assert sum(r * s for r, s in zip(pruner.ranks.values(), sizes, strict=True)) <= 2 * sum(sizes)


@pytest.mark.parametrize("name", ["svd_kfac", "kfac", "prunedlora2025", "adalora2023"])
def test_accumulation_does_not_change_the_choice(name):
    """One batch, or its halves accumulated: the same components and the same product.

    With SGD, which follows a change of basis exactly; AdamW's division entry by entry does not, so that rounding
    noise in components without energy grows there.
    """
    outcomes = []
    for accumulate in (1, 2):
        model, _ = make(dtype=torch.float64)
        optimizer = torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad], lr=0.2, momentum=0.9
        )
        with LoraRankPruner(
            model, optimizer, config(name, target_rank=4), total_steps=24
        ) as pruner:
            for step in range(24):
                optimizer.zero_grad()
                x, y = batch(step)
                for part, labels in zip(
                    x.double().chunk(accumulate), y.chunk(accumulate), strict=True
                ):
                    (nn.functional.cross_entropy(model(part), labels) / accumulate).backward()
                optimizer.step()
        outcomes.append(
            ([e.removed for e in pruner.events], [m.B @ m.A for m in find_lora_modules(model)])
        )
    assert outcomes[0][0] == outcomes[1][0]
    assert max(relative(a, b) for a, b in zip(outcomes[0][1], outcomes[1][1], strict=True)) < 1e-6


@pytest.mark.parametrize("name", ["svd_kfac", "fisher"])
def test_evaluation_in_between_is_not_counted(name):
    removed = []
    for evaluate in (False, True):
        model, optimizer = make()
        with LoraRankPruner(model, optimizer, config(name, decay=0.5), total_steps=24) as pruner:
            for step in range(24):
                optimizer.zero_grad()
                x, y = batch(step)
                nn.functional.cross_entropy(model(x), y).backward()
                if evaluate:
                    with torch.no_grad():
                        model(100 * x)
                optimizer.step()
        removed.append(([e.removed for e in pruner.events], [e.cost for e in pruner.events]))
    assert removed[0] == removed[1]


def test_loss_scale_is_taken_out():
    costs = []
    for scale in (1.0, 2.0**12):
        model, optimizer = make(dtype=torch.float64)
        with LoraRankPruner(
            model, optimizer, config("svd_kfac"), total_steps=24, loss_scale=lambda s=scale: s
        ) as pruner:
            for step in range(24):
                optimizer.zero_grad()
                x, y = batch(step)
                (scale * nn.functional.cross_entropy(model(x.double()), y)).backward()
                for p in model.parameters():
                    if p.grad is not None:
                        p.grad /= scale
                optimizer.step()
        costs.append([e.cost for e in pruner.events])
    assert costs[0] == pytest.approx(costs[1], rel=1e-6)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_truncation_carries_the_optimiser_into_the_new_basis(kind):
    """Removing nothing but noise: components beyond rank 2 are zero, so the truncated run stays the unpruned one."""
    model, _ = make(dtype=torch.float64)
    for m in find_lora_modules(model):
        m.B.data.normal_(generator=generator(1))
    plain = copy.deepcopy(model)
    results = []
    for net, pruned in ((model, True), (plain, False)):
        parameters = [p for p in net.parameters() if p.requires_grad]
        optimizer = kind(
            parameters,
            lr=1e-3,
            **({"momentum": 0.9} if kind is torch.optim.SGD else {"weight_decay": 0.0}),
        )
        for step in range(3):
            x, y = batch(step)
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x.double()), y).backward()
            optimizer.step()
        if pruned:
            from prunedlora.adapters.surgery import write_factors
            from prunedlora.factors import Factors
            from prunedlora.training.rotation import change_of_basis, rotate_state

            for m in find_lora_modules(net):
                old, live = Factors(m.B.detach().clone(), m.A.detach().clone()), torch.arange(6)
                R = torch.linalg.qr(torch.randn(6, 6, generator=generator(5), dtype=torch.float64))[
                    0
                ]
                new = Factors(old.B @ R.mT, R @ old.A)
                rotate_state(m, live, *change_of_basis(old, new), optimizer)
                write_factors(m, live, new.B, new.A)
        if kind is torch.optim.SGD:
            optimizer.step()  # the same gradient and momentum once more, exactly equivariant
        results.append([(m.B @ m.A).detach() for m in find_lora_modules(net)])
        results.append(
            [m.B.detach() @ m.A.grad + m.B.grad @ m.A.detach() for m in find_lora_modules(net)]
        )
    for a, b in zip(results[0] + results[1], results[2] + results[3], strict=True):
        assert relative(a, b) < 1e-9


def test_unknown_optimiser_state_cannot_follow():
    model, _ = make()
    optimizer = torch.optim.Adagrad([p for p in model.parameters() if p.requires_grad], lr=0.01)
    with pytest.raises(UnsupportedOptimizerError, match="cannot follow a change of basis"):
        train(model, optimizer, config("svd"))


def test_error_names_the_module():
    from prunedlora.criteria import register, unregister
    from prunedlora.errors import NonFiniteError

    @register("spoiling", needs=(), unit="none")
    def spoiling(factors, statistics):
        scores = factors.B.norm(dim=-2)
        return scores / 0.0 if factors.B.shape[-2] == 8 else scores

    try:
        model, optimizer = make()
        with pytest.raises(NonFiniteError, match=r"model\.2: "):
            train(model, optimizer, config("spoiling"))
        assert no_hooks_left(model)
    finally:
        unregister("spoiling")


@pytest.mark.parametrize("per", ["micro_batch", "sample"])
def test_fisher_per_sample_and_per_micro_batch(per):
    model, optimizer = make()
    assert (
        len(
            train(model, optimizer, config("fisher", fisher_per=per, window=4), accumulate=2).events
        )
        == 4
    )
