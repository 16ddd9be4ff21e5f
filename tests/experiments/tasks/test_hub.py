"""Tasks of GLUE, on rows made up here; and the T5 that classifies them."""

import pytest
import torch
from safetensors.torch import load_file

from experiments.finetuning.models import HEADS, load_base
from experiments.jobs.reload import check_reload
from experiments.jobs.run import run
from experiments.settings.jobs import RunConfig
from experiments.tasks import TASKS, hub_glue

NAMES = [t.name for t in hub_glue.GLUE]


@pytest.fixture(autouse=True)
def rows(monkeypatch):
    def made(name, split, task):
        assert len(name.partition("@")[2]) == 40
        fields = ("sentence", "question", "premise", "hypothesis", "sentence1", "sentence2")
        # the last tested row is in the training split too
        start = 59 if split.startswith("validation") else 0
        words = ("bad", "good")
        return [
            {f: f"{words[i % 2]} {f} {i}" for f in fields} | {"label": i % 2}
            for i in range(start, start + 60)
        ]

    monkeypatch.setattr(hub_glue, "load_rows", made)


@pytest.mark.parametrize("name", NAMES)
def test_splits_of_glue_are_disjoint_and_labelled(name):
    task = TASKS[name]
    test, validation, train = task.test(1_000), task.validation(1_000), task.train(100, seed=0)
    assert (len(test), len(validation), len(train)) == (60, 12, 100)
    assert {e.prompt for e in train}.isdisjoint(e.prompt for e in test + validation)
    assert all(
        e.answer in task.labels and e.text.startswith(name.removeprefix("glue_")) for e in test
    )
    assert task.train(20, seed=0) == train[:20] != task.train(20, seed=1)


@pytest.mark.parametrize(
    ("method", "criterion", "initial"),
    [("lora", "", 2), ("prune", "prunedlora2025", 4), ("full", "", 0)],
)
def test_a_t5_learns_a_task_and_its_head_is_trained_and_saved(method, criterion, initial, tmp_path):
    config = RunConfig(
        "tiny_t5", "glue_mrpc", method, initial, 2 if initial else 0, criterion, target_modules=("q", "k", "v", "o"),
        steps=6, batch_size=4, interval=1, warmup_steps=1, max_length=64, test_examples=20, learning_rate=0.01,
    )  # fmt: skip
    result = run(config, tmp_path / "run")
    assert len(result["train_loss"]) == 6
    if method != "full":
        assert result["rank"] == 2
        assert check_reload(config, tmp_path / "run") <= 1e-5
        saved = load_file(tmp_path / "run" / "adapter_model.safetensors")
        base, _ = load_base(config)
        head = {n for n, _ in base.named_parameters() if n.startswith(HEADS)}
        assert len([n for n in saved if "classification_head" in n]) == len(head) == 4
        trained = next(t for n, t in saved.items() if n.endswith("out_proj.weight"))
        assert not torch.equal(trained, base.get_parameter("classification_head.out_proj.weight"))
