import torch
import torch.multiprocessing as mp
from conftest import llama, trainable
from peft import LoraConfig, get_peft_model
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from prunedlora import LoraRankPruner, PruneConfig, export_adapter, find_lora_modules
from prunedlora.errors import InconsistentProcessesError

WORLD = 2


def worker(rank: int, folder: str, results) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    try:
        results[rank] = {"wrapped": train(rank, folder, wrap=True), "bare": train(rank, folder, wrap=False)}
    finally:
        dist.destroy_process_group()


def train(rank: int, folder: str, wrap: bool):
    """Train on data of this process's own; returns the removed components, or the name of an error."""
    torch.manual_seed(0)
    model = get_peft_model(llama(), LoraConfig(r=8, target_modules=["q_proj", "v_proj"]))
    ready = DistributedDataParallel(model) if wrap else model
    optimizer = torch.optim.AdamW(trainable(model), lr=1e-2)
    config = PruneConfig(target_rank=4, interval=2, warmup_steps=2)
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


def test_processes_agree_under_ddp_and_disagreement_is_an_error(tmp_path):
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(worker, args=(str(tmp_path), results), nprocs=WORLD)
        first, second = results[0], results[1]
    assert first["wrapped"] == second["wrapped"]
    assert set(first["wrapped"][1]) == {4}
    assert first["bare"] == second["bare"] == "InconsistentProcessesError"
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
