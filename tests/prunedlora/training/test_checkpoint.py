"""Interrupted training goes on as if it had not been."""

import copy
import functools
import io
import json

import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor, nn

from prunedlora import LoraRankPruner, PruneConfig, PruneEvent, find_lora_modules
from prunedlora.errors import ConfigurationError, OutputError
from prunedlora.training.checkpoint import read_state, write_state
from tests.models import ids, trainable, with_lora

STEPS = 12
CONFIG = PruneConfig(
    target_rank=2, criterion="prunedlora2025", interval=3, per_event=2, warmup_steps=2
)
CONFIGS = {
    "the paper's rule": CONFIG,
    "a window across the interruption": PruneConfig(
        target_rank=4, criterion="kfac", interval=4, warmup_steps=2, window=3
    ),
    "running averages": PruneConfig(
        target_rank=4, criterion="fisher", interval=5, warmup_steps=1, decay=0.7
    ),
    "per sample": PruneConfig(
        target_rank=4, criterion="fisher", interval=4, warmup_steps=2, window=3, fisher_per="sample"
    ),
    "core gradients": PruneConfig(
        target_rank=4,
        criterion="svd_fisher",
        options={"mu": 1.0, "lam": 0.0},
        interval=4,
        warmup_steps=2,
        window=3,
    ),
    "turned bases": PruneConfig(target_rank=2, criterion="svd", interval=3, warmup_steps=2),
    "sensitivities of all steps": PruneConfig(
        target_rank=4, criterion="adalora2023", interval=4, warmup_steps=2
    ),
    "random numbers": PruneConfig(target_rank=2, criterion="random", interval=3, warmup_steps=2),
    "one budget": PruneConfig(
        target_rank=4, criterion="svd", interval=4, warmup_steps=2, scope="global"
    ),
}


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(trainable(model), lr=1e-2)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Tensor]) -> None:
    for tokens in batches:
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()


def factors(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for m in find_lora_modules(model) for p in (m.B, m.A)]


def saved(model: nn.Module, optimizer: torch.optim.Optimizer, pruner: LoraRankPruner) -> io.BytesIO:
    """A checkpoint as users write it."""
    file = io.BytesIO()
    torch.save(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "pruner": pruner.state_dict(),
        },
        file,
    )
    file.seek(0)
    return file


def resumed(
    lora, file: io.BytesIO, config: PruneConfig
) -> tuple[nn.Module, torch.optim.Optimizer, LoraRankPruner]:
    """Model, optimiser and pruner of another process that reads the checkpoint."""
    state = torch.load(file, weights_only=True)
    model = lora(zero_B=True)
    model.load_state_dict(state["model"])
    optimizer = adamw(model)
    optimizer.load_state_dict(state["optimizer"])
    pruner = LoraRankPruner(model, optimizer, config, total_steps=STEPS)
    pruner.load_state_dict(state["pruner"])
    return model, optimizer, pruner


@functools.cache
def uninterrupted(name: str) -> tuple[list[Tensor], PeftModel, PeftModel, list[PruneEvent]]:
    """Batches, a model, what training on them without a break makes of it, and its events."""
    torch.manual_seed(0)
    batches = [ids() for _ in range(STEPS)]
    model = with_lora()
    before = copy.deepcopy(model)
    optimizer = adamw(model)
    with LoraRankPruner(model, optimizer, CONFIGS[name], total_steps=STEPS) as pruner:
        train(model, optimizer, batches)
    return batches, before, model, pruner.events


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("stop", [1, 7, 8, STEPS])
def test_a_resumed_training_is_the_same_to_the_last_digit(lora, name, stop):
    config = CONFIGS[name]
    batches, before, model, events = uninterrupted(name)
    other = copy.deepcopy(before)
    first = adamw(other)
    interrupted = LoraRankPruner(other, first, config, total_steps=STEPS)
    train(other, first, batches[:stop])
    file = saved(other, first, interrupted)
    again, second, pruner = resumed(lora, file, config)
    assert (pruner.step, pruner.ranks) == (stop, interrupted.ranks)
    with pruner:
        train(again, second, batches[stop:])
    assert [(e.step, e.ranks, e.removed, e.cost) for e in pruner.events] == [
        (e.step, e.ranks, e.removed, e.cost) for e in events
    ]
    assert len(events) >= 2
    assert all(torch.equal(a, b) for a, b in zip(factors(model), factors(again), strict=True))
    assert {m.rank for m in find_lora_modules(again)} == {m.rank for m in find_lora_modules(model)}


@pytest.mark.supports("AdamW", "none", "accelerate", "float32")
def test_accelerate_keeps_the_state_of_a_registered_pruner(lora, tmp_path):
    ends, batches = [], [ids() for _ in range(STEPS)]
    for go_on in (False, True):
        torch.manual_seed(7)
        accelerator = Accelerator(cpu=True)
        model = lora()
        model, optimizer = accelerator.prepare(model, adamw(model))
        pruner = LoraRankPruner(model, optimizer, CONFIG, total_steps=STEPS)
        accelerator.register_for_checkpointing(pruner)
        if go_on:
            accelerator.load_state(tmp_path / "checkpoint")
        else:
            train(model, optimizer, batches[:7])
            accelerator.save_state(tmp_path / "checkpoint")
        with pruner:
            train(model, optimizer, batches[7:])
        ends.append((factors(model), [event.removed for event in pruner.events]))
    assert ends[0][1] == ends[1][1]
    assert all(torch.equal(a, b) for a, b in zip(ends[0][0], ends[1][0], strict=True))


def test_a_state_is_not_changed_by_the_pruner_that_takes_it(lora):
    config = CONFIGS["running averages"]
    model = lora()
    optimizer = adamw(model)
    pruner = LoraRankPruner(model, optimizer, config, total_steps=STEPS)
    train(model, optimizer, [ids() for _ in range(3)])
    state = pruner.state_dict()
    kept = copy.deepcopy(state["statistics"])
    pruner.close()
    assert len(kept) == 2 * 2 * len(pruner.modules)
    with LoraRankPruner(model, optimizer, config, total_steps=STEPS) as other:
        other.load_state_dict(state)
        train(model, optimizer, [ids() for _ in range(STEPS - 3)])
    assert all(torch.equal(kept[key], value) for key, value in state["statistics"].items())


@pytest.fixture
def stopped(lora):
    """A model, its optimiser and the state of its pruner after one event."""
    model = lora()
    optimizer = adamw(model)
    pruner = LoraRankPruner(model, optimizer, CONFIG, total_steps=STEPS)
    train(model, optimizer, [ids() for _ in range(6)])
    pruner.close()
    assert len(pruner.events) == 1
    return model, optimizer, pruner.state_dict()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"interval": 2}, r"other settings: interval=2 \(was 3\)"),
        ({"criterion": "magnitude"}, "criterion='magnitude'"),
        ({"options": {"damping": 0.5}}, "options="),
    ],
)
def test_other_settings_are_refused(stopped, changes, match):
    model, optimizer, state = stopped
    config = PruneConfig(**{**json.loads(CONFIG.to_json()), **changes})
    pruner = LoraRankPruner(model, optimizer, config, total_steps=STEPS)
    with pytest.raises(ConfigurationError, match=match):
        pruner.load_state_dict(state)
    assert (pruner.step, pruner.events) == (0, [])


def test_another_adapter_other_weights_and_a_pruner_that_has_begun_are_refused(stopped, lora):
    model, optimizer, state = stopped
    fresh = lora()
    begun = LoraRankPruner(model, optimizer, CONFIG, total_steps=STEPS)
    for change in (lambda s: s.pop("events"), lambda s: s.update(epoch=3)):
        broken = copy.copy(state)
        change(broken)
        with pytest.raises(
            ConfigurationError, match="state of a LoraRankPruner has config, events"
        ):
            begun.load_state_dict(broken)
    with pytest.raises(ConfigurationError, match="load the weights of the same checkpoint"):
        LoraRankPruner(fresh, adamw(fresh), CONFIG, total_steps=STEPS).load_state_dict(state)
    smaller = lora(rank_pattern={"layers.1.self_attn.v_proj": 7})
    with pytest.raises(ConfigurationError, match=r"v_proj had rank 8, has 7 here"):
        LoraRankPruner(smaller, adamw(smaller), CONFIG, total_steps=STEPS).load_state_dict(state)
    train(model, optimizer, [ids()])
    with pytest.raises(ConfigurationError, match="has begun already"):
        begun.load_state_dict(state)


def test_a_state_that_lacks_sensitivities_is_refused(lora):
    config = CONFIGS["sensitivities of all steps"]
    model = lora()
    optimizer = adamw(model)
    pruner = LoraRankPruner(model, optimizer, config, total_steps=STEPS)
    with pytest.raises(ConfigurationError, match="lacks sensitivity_B"):
        pruner.load_state_dict({**pruner.state_dict(), "statistics": {}})


def test_a_wrapper_may_come_and_go(stopped):
    model, optimizer, state = stopped

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = model

    pruner = LoraRankPruner(Wrapper(), optimizer, CONFIG, total_steps=STEPS)
    pruner.load_state_dict(state)
    assert set(pruner.ranks.values()) == {6}
    assert all(name.startswith("module.") for name in pruner.events[0].ranks)


def test_a_state_survives_a_file_without_pickles(stopped, tmp_path):
    _, _, state = stopped
    file = tmp_path / "state.safetensors"
    for statistics in (state["statistics"], {"gram_B.q.total": torch.eye(2, dtype=torch.float64)}):
        write_state({**state, "statistics": statistics}, file)  # the second time over the first
        read = read_state(file)
        assert read.keys() == state.keys()
        assert all(torch.equal(read["statistics"][key], value) for key, value in statistics.items())
        assert {k: v for k, v in read.items() if k != "statistics"} == {
            k: v for k, v in state.items() if k != "statistics"
        }
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


def test_files_that_are_no_state_are_refused(stopped, tmp_path):
    _, _, state = stopped
    adapter, pickle, absent = (
        tmp_path / name for name in ("adapter.safetensors", "pickle", "absent")
    )
    save_file({"lora_A": torch.ones(2)}, adapter)
    with pytest.raises(OutputError, match="cannot write beside"):
        write_state(state, adapter / "state.safetensors")
    torch.save(state, pickle)
    for file in (adapter, pickle, absent):
        with pytest.raises(ConfigurationError, match="holds no state of a pruner"):
            read_state(file)


def test_one_flipped_bit_in_the_file_is_refused_or_changes_nothing(tmp_path, lora):
    model = lora()
    optimizer = adamw(model)
    pruner = LoraRankPruner(model, optimizer, CONFIGS["running averages"], total_steps=STEPS)
    train(model, optimizer, [ids() for _ in range(3)])
    state, file = pruner.state_dict(), tmp_path / "state.safetensors"
    pruner.close()
    write_state(state, file)
    good = read_state(file)
    content, refused = file.read_bytes(), 0
    random = torch.Generator().manual_seed(0)
    for _ in range(300):
        damaged = bytearray(content)
        position = int(torch.randint(len(damaged), (), generator=random))
        damaged[position] ^= 1 << int(torch.randint(8, (), generator=random))
        file.write_bytes(damaged)
        try:
            read = read_state(file)
        except ConfigurationError:
            refused += 1
        else:  # as in a space of the header
            assert {k: v for k, v in read.items() if k != "statistics"} == {
                k: v for k, v in good.items() if k != "statistics"
            }
            for key, tensor in good["statistics"].items():
                assert torch.equal(read["statistics"][key], tensor)
    assert refused > 290
