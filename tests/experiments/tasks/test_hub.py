"""Tasks whose data are on the hub, on rows made up here; and the T5 that classifies them."""

import pytest
import torch
from safetensors.torch import load_file

from experiments.finetuning.models import HEADS, load_base
from experiments.jobs.reload import check_reload
from experiments.jobs.run import run
from experiments.settings.jobs import RunConfig
from experiments.tasks import TASKS, hub_code, hub_glue

NAMES = [t.name for t in hub_glue.GLUE]


@pytest.fixture(autouse=True)
def rows(monkeypatch):
    def made(name, split, task):
        assert len(name.partition("@")[2]) == 40
        fields = ("sentence", "question", "premise", "hypothesis", "sentence1", "sentence2")
        # the last tested row is in the training split too
        start = 59 if split.startswith("validation") else 0
        words = ("bad", "good")
        return [{f: f"{words[i % 2]} {f} {i}" for f in fields} | {"label": i % 2} for i in range(start, start + 60)]

    monkeypatch.setattr(hub_glue, "load_rows", made)


@pytest.mark.parametrize("name", NAMES)
def test_splits_of_glue_are_disjoint_and_labelled(name):
    task = TASKS[name]
    test, validation, train = task.test(1_000), task.validation(1_000), task.train(100, seed=0)
    assert (len(test), len(validation), len(train)) == (60, 12, 100)
    assert {e.prompt for e in train}.isdisjoint(e.prompt for e in test + validation)
    assert all(e.answer in task.labels and e.text.startswith(name.removeprefix("glue_")) for e in test)
    assert task.train(20, seed=0) == train[:20] != task.train(20, seed=1)


@pytest.mark.parametrize(
    ("method", "criterion", "initial"), [("lora", "", 2), ("prune", "prunedlora2025", 4), ("full", "", 0)]
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


def conversation(i: int, answer: str) -> dict:
    said = (("user", f"Question {i}"), ("assistant", answer), ("user", "Better?"), ("assistant", "No."))
    return {"id": i, "messages": [{"role": role, "content": content} for role, content in said]}


@pytest.fixture
def conversations(monkeypatch):
    tested = hub_code.problems()[0]["entry_point"]
    good = [conversation(i % 40, f"So:\n```python\ndef made_up_{i}(): return {i}\n```") for i in range(50)]
    bad = [
        conversation(100, "No code."),
        conversation(101, f"```python\ndef {tested}(x):\n    return x\n```"),
        conversation(102, "```sql\nSELECT 1\n```"),
        {"id": 103, "messages": conversation(103, "```python\nx\n```")["messages"][1:]},
    ]

    def load(name, split):
        assert len(name.partition("@")[2]) == 40
        return bad + good

    monkeypatch.setattr(hub_code, "load_rows", load)
    monkeypatch.setattr(hub_code, "VALIDATION", 10)


def test_conversations_about_code_are_split_without_tested_functions_or_repetitions(conversations):
    task = TASKS["code_feedback"]
    validation, train = task.validation(1_000), task.train(1_000, seed=0)
    assert (len(validation), len(train)) == (10, 30)
    prompts = [e.prompt for e in validation + train]
    assert len(set(prompts)) == 40
    assert all(e.target.startswith(" So:\n```python\ndef made_up_") and "Better?" not in e.target for e in train)
    assert task.train(5, seed=0) == train[:5] != task.train(5, seed=1)


def test_answers_in_a_block_pass_the_tests_of_their_problem_and_others_do_not():
    task = TASKS["code_feedback"]
    for example in task.test(12):
        assert task.judge(task.read_answer(example.target), example), example.prompt
        assert not task.judge(task.read_answer("```python\ndef something_else():\n    pass\n```"), example)
    assert task.read_answer("text\n```\nx\n```") == "x\n"
    assert task.read_answer("x = 1") == "x = 1"
