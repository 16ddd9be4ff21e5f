"""Pruning while `torch.distributed.fsdp.fully_shard` (FSDP2) shards the model, beside one process with all the data."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from peft import LoraConfig, PeftModel, get_peft_model
from torch import distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard

from prunedlora import LoraRankPruner, PruneConfig, export_adapter, find_lora_modules
from prunedlora.adapters.optimizer_state import state_like
from prunedlora.adapters.sharding import full, local
from prunedlora.criteria import available_criteria
from prunedlora.errors import ConfigurationError, NonFiniteError, OutputError
from tests.models import ids, llama, trainable

RANK = 6  # not a multiple of four: one of four processes holds no row of A
STEPS = 6
SAMPLES = 4
#: Every process gets whole tensors, and keeps its part when it loads them.
WHOLE = StateDictOptions(full_state_dict=True)

#: Settings of every case that must choose as one process does.
CASES: dict[str, dict[str, Any]] = {name: {} for name in available_criteria()} | {
    "prunedlora2025, both": {"options": {"recovery": "both"}, "window": 2},
    "fisher": {"fisher_per": "sample", "decay": 0.9},
    "fisher, micro-batches": {},
    "svd_kfac": {"moments": "reset", "window": 2},
}
OF_FOUR = ("svd", "prunedlora2025, both", "svd_kfac", "fisher, micro-batches")


def adapted() -> PeftModel:
    """The same model in every process, with an adapter that is not zero."""
    torch.manual_seed(0)
    settings = LoraConfig(
        r=RANK,
        lora_alpha=9,
        target_modules=["q_proj", "down_proj", "lm_head"],
        init_lora_weights=False,
    )
    return get_peft_model(llama().double(), settings)


def sharded(
    mesh: DeviceMesh | None = None,
    dtype: torch.dtype | None = None,
    *,
    checkpointed: bool = False,
    **settings: Any,
) -> PeftModel:
    """The model, each of its layers and the rest of it sharded."""
    model = adapted()
    if checkpointed:
        decoder = model.base_model.model.model
        decoder.layers = nn.ModuleList(map(checkpoint_wrapper, decoder.layers))
    if dtype is not None:
        model = model.float()
        settings["mp_policy"] = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for layer in model.base_model.model.model.layers:
        fully_shard(layer, mesh=mesh, **settings)
    fully_shard(model, mesh=mesh, **settings)
    return model


def along_columns(p: nn.Parameter) -> Shard:
    """Matrices are shared out by their columns."""
    return Shard(p.dim() - 1)


def config_of(case: str) -> PruneConfig:
    settings = {"interval": 2, "per_event": 2, "warmup_steps": 1, **CASES[case]}
    return PruneConfig(target_rank=2, criterion=case.partition(",")[0], **settings)


def batches() -> torch.Tensor:
    """All data of a training: (steps, samples, tokens)."""
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 32, (STEPS, SAMPLES, 6), generator=generator)


def share(data: torch.Tensor) -> list[torch.Tensor]:
    """What of each step this process sees."""
    parts = dist.get_world_size() if dist.is_initialized() else 1
    return list(data.chunk(parts, dim=1)[dist.get_rank() if parts > 1 else 0])


def train(
    model: nn.Module,
    case: str,
    *,
    passes: int = 1,
    steps: range = range(STEPS),
    state: dict[str, Any] | None = None,
    after: Callable[[LoraRankPruner], Any] = LoraRankPruner.finish,
) -> dict[str, Any]:
    """Train for some steps, each of so many backward passes, from a checkpoint or from the beginning."""
    optimizer = torch.optim.AdamW(trainable(model), lr=1e-2)
    # torch takes a step of the optimiser when it loads a state: the pruner comes after that.
    if state is not None:
        set_state_dict(
            model,
            optimizer,
            model_state_dict=dict(state["model"]),  # what is loaded becomes sharded there
            optim_state_dict=copy.deepcopy(state["optimizer"]),
            options=WHOLE,
        )
    pruner = LoraRankPruner(model, optimizer, config_of(case), total_steps=STEPS)
    if state is not None:
        pruner.load_state_dict(state["pruner"])
    for tokens in share(batches()[steps.start : steps.stop]):
        optimizer.zero_grad()
        parts = tokens.chunk(passes)
        for i, part in enumerate(parts):
            if hasattr(model, "set_requires_gradient_sync"):
                model.set_requires_gradient_sync(i == len(parts) - 1)
            (model(input_ids=part, labels=part).loss / passes).backward()
        optimizer.step()
    given = after(pruner)
    pruner.close()
    return {
        "removed": [(event.step, event.removed) for event in pruner.events],
        "factors": factors(model),
        "stale": stale(pruner),
        "given": given,
    }


def stale(pruner: LoraRankPruner) -> int:
    """Numbers that the optimiser still keeps for removed components."""
    count = 0
    for module in pruner.modules:
        gone = torch.ones(module.rank, dtype=torch.bool)
        gone[pruner.live[module.name]] = False
        for parameter, dim in ((module.B, 1), (module.A, 0)):
            for _, kept in state_like(parameter, pruner.optimizer, module.name):
                part = full(kept).index_select(dim, gone.nonzero().squeeze(1))
                count += int(part.count_nonzero())
    return count


def factors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Those of the components that are not zero."""
    whole = {}
    for module in find_lora_modules(model, sharded=True):
        B, A = full(module.B).clone(), full(module.A).clone()
        alive = A.any(dim=1)
        whole[module.name] = torch.cat([B[:, alive], A[alive].mT])
    return whole


def checkpoint(pruner: LoraRankPruner) -> dict[str, Any]:
    """The states of everything, whole."""
    model, optimizer = get_state_dict(pruner.model, pruner.optimizer, options=WHOLE)
    return {"model": model, "optimizer": optimizer, "pruner": pruner.state_dict()}


def of_two(rank: int, folder: str) -> dict[str, Any]:
    """What two processes do."""
    results: dict[str, Any] = {}
    for case in CASES:
        results[case] = train(sharded(), case)
    results["along columns"] = train(sharded(shard_placement_fn=along_columns), "svd")
    results["bfloat16"] = train(sharded(dtype=torch.bfloat16), "prunedlora2025")
    results["accumulated"] = train(sharded(), "prunedlora2025", passes=2)
    results["begun"] = train(sharded(), "svd_kfac", steps=range(4), after=checkpoint)
    results["resumed"] = train(
        sharded(), "svd_kfac", steps=range(4, STEPS), state=results["begun"]["given"]
    )
    results["on and on"] = train_on(folder)
    results["not finite"] = with_nan(rank)
    return results


def of_four(rank: int, folder: str) -> dict[str, Any]:
    """What four processes do: all of them share a tensor, or two and two."""
    results: dict[str, Any] = {case: train(sharded(), case) for case in OF_FOUR}
    grid = init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "shards"))
    results["two by two"] = train(sharded(grid), "svd_kfac")
    return results


def train_on(folder: str) -> dict[str, Any]:
    """Evaluate, finish, train on, export; what the model answers, and what it refuses."""
    model = sharded(checkpointed=True)
    optimizer = torch.optim.AdamW(trainable(model), lr=1e-2, weight_decay=0.1)
    torch.manual_seed(dist.get_rank())
    with LoraRankPruner(model, optimizer, config_of("svd"), total_steps=STEPS) as pruner:
        learn(model, optimizer, STEPS)
        refused = {"unfinished": error_of(lambda: export_adapter(model, f"{folder}/no"))}
        # An evaluation leaves whole tensors in the place of the root's shards.
        with torch.no_grad():
            model(input_ids=ids())
    before = factors(model)
    learn(model, optimizer, 2)
    moved = all((a - before[name]).norm() > 1e-3 for name, a in factors(model).items())
    components = [int(full(m.A).any(dim=1).sum()) for m in pruner.modules]
    config = PruneConfig(1, interval=2, warmup_steps=1)
    refused |= {
        "again": error_of(lambda: LoraRankPruner(model, optimizer, config, total_steps=9)),
        "plain": error_of(lambda: find_lora_modules(model)),
    }
    export_adapter(model, f"{folder}/adapter", record=pruner.record())
    export_adapter(model, f"{folder}/uniform", layout="uniform")
    refused["taken"] = error_of(lambda: export_adapter(model, f"{folder}/adapter"))
    with torch.no_grad():
        logits = model(input_ids=torch.arange(12).view(2, 6)).logits
        module = find_lora_modules(model, sharded=True)[0]
        local(module.A).fill_(1.0)
    refused["changed"] = error_of(lambda: export_adapter(model, f"{folder}/no"))
    return {
        "moved": moved,
        "components": components,
        "logits": logits,
        "refused": refused,
    }


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        tokens = ids()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()


def with_nan(rank: int) -> str:
    """The error where only one process holds the entry that is not finite."""
    model = sharded()
    optimizer = torch.optim.AdamW(trainable(model), lr=1e-2)
    pruner = LoraRankPruner(model, optimizer, config_of("svd"), total_steps=STEPS)
    learn(model, optimizer, 2)
    tokens = ids()
    model(input_ids=tokens, labels=tokens).loss.backward()
    if rank == 1:
        local(pruner.modules[0].A.grad)[0, 0] = torch.nan
    said = error_of(optimizer.step)
    pruner.close()
    return said


def error_of(act: Callable[[], Any]) -> str:
    try:
        act()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


def worker(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
    try:
        results = (of_two if world == 2 else of_four)(rank, folder)
        torch.save(results, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def run(world: int, folder: Any) -> list[dict[str, Any]]:
    """The answers of every process."""
    mp.get_context("forkserver").set_forkserver_preload([__name__])
    mp.start_processes(worker, args=(world, str(folder)), nprocs=world, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


def assert_same(one: dict[str, Any], other: dict[str, Any], what: str) -> None:
    assert one["removed"] == other["removed"], what
    assert one["stale"] == 0, what
    assert one["factors"].keys() == other["factors"].keys()
    for name, expected in other["factors"].items():
        torch.testing.assert_close(
            one["factors"][name],
            expected,
            rtol=1e-6,
            atol=1e-8,
            msg=lambda m, name=name: f"{what}, {name}: {m}",
        )


def passes_of_one(case: str, processes: int) -> int:
    """Backward passes of one process: its micro-batches are those that the processes have."""
    return processes if "micro-batches" in case else 1


@pytest.mark.supports("AdamW", "fully_shard (FSDP2)", "own loop", "float64")
@pytest.mark.supports("AdamW", "fully_shard (FSDP2)", "own loop", "bfloat16")
def test_two_processes_choose_as_one_does(tmp_path):
    first, second = run(2, tmp_path)
    for case in CASES:
        alone = train(adapted(), case, passes=passes_of_one(case, 2))
        assert len(alone["removed"]) == 2
        assert_same(first[case], alone, case)
        assert_same(second[case], first[case], case)
    assert_same(first["along columns"], first["svd"], "along columns")
    assert_same(first["accumulated"], first["prunedlora2025"], "accumulated")
    assert len(first["bfloat16"]["removed"]) == 2
    assert_same(second["bfloat16"], first["bfloat16"], "bfloat16")
    # A resumed training, in as many processes or in one.
    whole = first["svd_kfac"]
    assert len(first["begun"]["removed"]) == 1
    alone = train(adapted(), "svd_kfac", steps=range(4, STEPS), state=first["begun"]["given"])
    for resumed in (first["resumed"], second["resumed"], alone):
        assert_same(resumed, whole, "resumed")
    # After `finish`.
    on = first["on and on"]
    assert on["moved"]
    assert set(on["components"]) == {2}
    model = PeftModel.from_pretrained(
        llama().double(), tmp_path / "adapter", autocast_adapter_dtype=False
    )
    assert {m.rank for m in find_lora_modules(model)} == {2}
    with torch.no_grad():
        logits = model(input_ids=torch.arange(12).view(2, 6)).logits
    torch.testing.assert_close(logits, on["logits"], rtol=1e-9, atol=1e-9)
    assert "rank: 2, in 5 modules" in (tmp_path / "adapter" / "README.md").read_text()
    assert (tmp_path / "uniform" / "adapter_config.json").exists()
    assert not (tmp_path / "no").exists()
    for results in (first, second):
        refused = results["on and on"]["refused"]
        assert refused["unfinished"].startswith(ConfigurationError.__name__)
        assert "still holds removed components" in refused["again"]
        assert "sharded over processes" in refused["plain"]
        assert refused["taken"].startswith(OutputError.__name__)
        assert "not zero" in refused["changed"]
        assert results["not finite"].startswith(
            f"{NonFiniteError.__name__}: the gradients at optimiser step 3"
        )


@pytest.mark.supports("AdamW", "fully_shard with copies (HSDP)", "own loop", "float64")
def test_four_processes_choose_as_one_does_where_a_shard_is_empty(tmp_path):
    results = run(4, tmp_path)
    for case in OF_FOUR:
        alone = train(adapted(), case, passes=passes_of_one(case, 4))
        for rank, result in enumerate(results):
            assert_same(result[case], alone, f"{case}, {rank}")
    for result in results:
        assert_same(result["two by two"], results[0]["svd_kfac"], "two by two")


pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
