import os
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from peft import LoraConfig, get_peft_model
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainingArguments

from prunedlora import LoraRankPruner, PruneConfig, export_adapter, find_lora_modules
from prunedlora.distributed import assert_same_everywhere
from prunedlora.errors import InconsistentProcessesError
from prunedlora.statistics.collector import Collector
from prunedlora.training.callback import PruningCallback
from tests.models import llama, trainable

WORLD = 2
NEEDS = ("C_z", "U", "core_gradients", "fisher_B", "fisher_A", "gram_B", "gram_A")


def worker(rank: int, folder: str) -> None:
    """Everything that the test asks of one process; the answers go to a file of its own."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD
    )
    try:
        results = {
            "wrapped": train(rank, folder, wrap=True),
            "bare": train(rank, folder, wrap=False),
            "different number": chosen({"a": [7, 6, 5][: 2 + rank]}),
            "different split": chosen({"a": [7, 6], "b": [5]} if rank else {"a": [7], "b": [6, 5]}),
            "different basis": removed_by_svd(rank),
            "after finish": train_on(rank),
            "measured": measure(slice(4 * rank, 4 * rank + 4)),
            "whole": prune(range(8), rank, {}),
            "begun": (begun := prune(range(6), rank, {})),  # ends within the window of an event
            "resumed": prune(range(6, 8), rank, begun),
            "trainer": train_with_trainer(rank, f"{folder}/run", None),
            "trainer, resumed": train_with_trainer(
                rank, f"{folder}/run", f"{folder}/run/checkpoint-5"
            ),
        }
        torch.save(results, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def train(rank: int, folder: str, wrap: bool):
    """Train on data of this process's own; returns the removed components, or the name of an error."""
    torch.manual_seed(0)
    model = get_peft_model(llama(), LoraConfig(r=8, target_modules=["q_proj", "v_proj"]))
    ready = DistributedDataParallel(model) if wrap else model
    optimizer = torch.optim.AdamW(trainable(model), lr=1e-2)
    config = PruneConfig(target_rank=4, criterion="prunedlora2025", interval=2, warmup_steps=2)
    torch.manual_seed(10 + rank)
    try:
        with LoraRankPruner(ready, optimizer, config, total_steps=8) as pruner:
            for _ in range(8):
                optimizer.zero_grad()
                tokens = torch.randint(0, 32, (4, 6))
                ready(input_ids=tokens, labels=tokens).loss.backward()
                optimizer.step()
    except InconsistentProcessesError as error:
        return type(error).__name__
    if rank == 0:
        export_adapter(ready, f"{folder}/adapter")
    return [event.removed for event in pruner.events], [m.rank for m in find_lora_modules(ready)]


def chosen(removed: dict[str, list[int]]) -> str:
    try:
        assert_same_everywhere({name: torch.tensor(i) for name, i in removed.items()})
    except InconsistentProcessesError as error:
        return type(error).__name__
    return "accepted"


def removed_by_svd(rank: int) -> str:
    """Whose removed components are always the last; without DistributedDataParallel the weights differ."""
    torch.manual_seed(0)
    model = get_peft_model(llama(), LoraConfig(r=8, target_modules=["q_proj"]))
    optimizer = torch.optim.AdamW(trainable(model), lr=1e-4)
    config = PruneConfig(target_rank=4, interval=2, warmup_steps=2)
    torch.manual_seed(rank)
    pruner = LoraRankPruner(model, optimizer, config, total_steps=8)
    try:
        for _ in range(8):
            optimizer.zero_grad()
            tokens = torch.randint(0, 32, (4, 6))
            model(input_ids=tokens, labels=tokens).loss.backward()
            optimizer.step()
    except InconsistentProcessesError as error:
        return type(error).__name__
    finally:
        pruner.close()
    return "accepted"


def train_on(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The adapter's product at `finish` and five steps later, under DistributedDataParallel."""
    torch.manual_seed(0)
    model = get_peft_model(llama(), LoraConfig(r=8, target_modules=["q_proj"]))
    ddp = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(trainable(model), lr=1e-2)
    torch.manual_seed(rank)

    def steps(count: int) -> torch.Tensor:
        for _ in range(count):
            optimizer.zero_grad()
            for _ in range(2):  # accumulated
                tokens = torch.randint(0, 32, (4, 6))
                ddp(input_ids=tokens, labels=tokens).loss.backward()
            optimizer.step()
        return torch.stack([(m.B @ m.A).detach() for m in find_lora_modules(model)])

    config = PruneConfig(target_rank=4, interval=2, warmup_steps=2)
    with LoraRankPruner(ddp, optimizer, config, total_steps=6):
        before = steps(6)
    return before, steps(5)


def prune(steps: range, rank: int | None, state: dict[str, Any]) -> dict[str, Any]:
    """Train for some of eight steps, one process's share of every batch or all of it, from a checkpoint or anew."""
    torch.manual_seed(0)
    model = get_peft_model(
        llama(), LoraConfig(r=8, target_modules=["q_proj"], init_lora_weights=False)
    )
    model.load_state_dict(state.get("model", model.state_dict()))
    batches = torch.randint(0, 32, (8, WORLD, 4, 6), generator=torch.Generator().manual_seed(2))
    batches, ready = (
        (batches.flatten(1, 2), model)
        if rank is None
        else (batches[:, rank], DistributedDataParallel(model))
    )
    optimizer = torch.optim.SGD(trainable(model), lr=0.1)
    config = PruneConfig(target_rank=4, criterion="svd_kfac", interval=3, warmup_steps=1, window=2)
    pruner = LoraRankPruner(ready, optimizer, config, total_steps=8)
    if state:
        pruner.load_state_dict(state["pruner"])
    for tokens in batches[steps.start : steps.stop]:
        optimizer.zero_grad()
        ready(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    pruner.close()
    return {"model": model.state_dict(), "pruner": pruner.state_dict()}


def train_with_trainer(rank: int, folder: str, checkpoint: str | None) -> dict[str, torch.Tensor]:
    """Shares every step among the processes; returns the shrunk factors."""
    os.environ |= {name: str(rank) for name in ("RANK", "LOCAL_RANK")}
    os.environ |= {name: str(WORLD) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
    os.environ |= {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "0",
    }  # asked for, not used: the group exists
    torch.manual_seed(0)
    model = get_peft_model(
        llama(), LoraConfig(r=8, target_modules=["q_proj"], init_lora_weights=False)
    )
    data = [{"input_ids": row, "labels": row} for row in torch.randint(0, 32, (64, 6))]
    arguments = TrainingArguments(
        folder,
        per_device_train_batch_size=2,
        max_steps=8,
        save_steps=5,
        use_cpu=True,
        disable_tqdm=True,
        report_to=[],
    )
    config = PruneConfig(target_rank=4, criterion="svd_kfac", interval=3, warmup_steps=1, window=2)
    trainer = Trainer(
        model=model, args=arguments, train_dataset=data, callbacks=[PruningCallback(config)]
    )
    assert trainer.args.world_size == WORLD
    trainer.train(resume_from_checkpoint=checkpoint)
    return {name: p.detach() for name, p in model.named_parameters() if "lora_" in name}


def removed(state: dict[str, Any]) -> list[tuple[int, list[list[int]]]]:
    """Step and components of every event."""
    return [(event["step"], list(event["removed"].values())) for event in state["pruner"]["events"]]


def factors(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Of all modules, at full size."""
    return {name: p for name, p in state["model"].items() if "lora_" in name}


def measure(part: slice) -> dict[str, torch.Tensor]:
    """Statistics of one module over a part of eight samples, as one process sees them."""
    torch.manual_seed(0)
    model = get_peft_model(
        llama(), LoraConfig(r=8, target_modules=["q_proj"], init_lora_weights=False)
    ).double()
    tokens = torch.randint(0, 32, (8, 6), generator=torch.Generator().manual_seed(1))[part]
    modules = find_lora_modules(model)
    with Collector(model, modules, NEEDS, fisher_per="sample") as collector:
        for batch in tokens.split(2):
            model.zero_grad()
            model(input_ids=batch, labels=batch).loss.backward()
            collector.update()
        found = collector.measure(modules[0], torch.arange(8))
    return {name: getattr(found, name) for name in NEEDS}


@pytest.mark.supports("AdamW", "DistributedDataParallel", "own loop", "float32")
@pytest.mark.supports("SGD", "DistributedDataParallel", "own loop", "float32")
@pytest.mark.supports("AdamW", "DistributedDataParallel", "Trainer", "float32")
def test_processes_agree_under_ddp_and_disagreement_is_an_error(tmp_path):
    # Forked from a server that has imported torch, transformers and PEFT once for both.
    mp.get_context("forkserver").set_forkserver_preload([__name__])
    mp.start_processes(worker, args=(str(tmp_path),), nprocs=WORLD, start_method="forkserver")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD))
    assert first["wrapped"] == second["wrapped"]
    assert set(first["wrapped"][1]) == {4}
    for case in ("bare", "different number", "different split", "different basis"):
        assert first[case] == second[case] == "InconsistentProcessesError", case
    before, after = first["after finish"]
    assert (after - before).norm() > 1e-3 * before.norm()
    torch.testing.assert_close(second["after finish"], first["after finish"], rtol=1e-6, atol=1e-9)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    statistics = first["begun"]["pruner"]["statistics"]
    assert len(statistics) == 2 * 2 * 2  # total and weight of C_z and U in two modules
    torch.testing.assert_close(second["begun"]["pruner"]["statistics"], statistics, rtol=0, atol=0)
    assert [step for step, _ in removed(first["whole"])] == [4, 7]
    for resumed in (first["resumed"], second["resumed"], prune(range(6, 8), None, first["begun"])):
        assert removed(resumed) == removed(first["whole"])
        torch.testing.assert_close(factors(resumed), factors(first["whole"]))
    assert {min(p.shape) for p in first["trainer"].values()} == {4}
    for trained in (first["trainer, resumed"], second["trainer"], second["trainer, resumed"]):
        torch.testing.assert_close(trained, first["trainer"], rtol=0, atol=0)
    whole = measure(slice(0, 8))
    for name, expected in whole.items():
        torch.testing.assert_close(
            first["measured"][name], expected, msg=lambda m, name=name: f"{name}: {m}"
        )
        torch.testing.assert_close(second["measured"][name], expected)
