"""The ways to fine-tune, as whole runs."""

from dataclasses import replace

from safetensors.torch import load_file

from experiments.jobs.run import run
from tests.experiments.finetuning.runs import BASE


def test_lora_is_trained_from_the_start_at_the_ranks_that_pruning_found(tmp_path):
    config = replace(
        BASE,
        method="lora_at_ranks",
        criterion="magnitude",
        scope="global",
        initial_rank=8,
        target_rank=3,
    )
    pruned = run(config.source, tmp_path / "pruned")
    again = run(config, tmp_path / "again", tmp_path / "pruned")
    first, second = (ranks_of(tmp_path / name) for name in ("pruned", "again"))
    assert first == second
    assert len(set(first.values())) > 1
    assert again["adapter_parameters"] == pruned["adapter_parameters"]
    assert again["trainable_parameters"] < pruned["trainable_parameters"]
    assert again["events"] == []
    assert again["train_loss"] != pruned["train_loss"]


def ranks_of(folder):
    file = load_file(folder / "adapter_model.safetensors")
    return {name: len(A) for name, A in file.items() if "lora_A" in name}
