import json
from dataclasses import asdict, replace

import pytest

from experiments.settings.jobs import RunConfig
from experiments.tables import peft_comparison

RUN = RunConfig(
    "org/llama@" + "a" * 40, "metamath_gsm8k", "prune", 128, 64, "prunedlora2025", steps=10
)

RECORD = {
    "config": asdict(RUN),
    "environment": {
        "date": "2026-01-01",
        "device": "a GPU",
        "packages": {"transformers": "5", "peft": "0.21", "torch": "2.13"},
    },
    "result": {
        "accuracy": 0.5,
        "train_loss": [2.0] * 9 + [1.0],
        "train_seconds": 3.0,
        "evaluation_seconds": 1.0,
        "peak_memory_bytes": 7,
        "trainable_parameters": 4,
        "base_parameters": 100,
        "adapter_bytes": 8,
    },
}


def test_a_result_becomes_an_entry_of_pefts_comparison(tmp_path):
    made = peft_comparison.convert(json.loads(json.dumps(RECORD)))
    assert made["run_info"]["experiment_name"] == "prunedlora/llama-prunedlora2025-rank64"
    assert made["run_info"]["total_time"] == 4.0
    pruned = made["run_info"]["peft_config"]["prunedlora"]
    assert pruned["initial_rank"] == 128
    assert pruned["options"] == {"recovery": "both"}
    assert made["train_info"]["metrics"][0] == {
        "step": 10,
        "test accuracy": 0.5,
        "train loss": 1.0,
        "train samples": 160,
        "train total tokens": None,
    }
    assert made["meta_info"]["model_info"]["sha"] == "a" * 40
    assert len(made["meta_info"]["dataset_info"]["gsm8k"]["sha"]) == 40


def test_another_task_cannot_stand_beside_pefts():
    with pytest.raises(ValueError, match="metamath_gsm8k"):
        peft_comparison.convert(RECORD | {"config": asdict(replace(RUN, task="arithmetic"))})
