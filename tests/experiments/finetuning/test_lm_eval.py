"""Answers judged by lm-eval: on the tiny model, with a data set in a local file."""

import json
from dataclasses import replace

import pytest

from experiments.finetuning.evaluate import evaluate
from experiments.finetuning.lm_eval import right_answers
from experiments.finetuning.methods import prepare
from experiments.finetuning.models import load_base
from experiments.settings.preset import load_preset
from experiments.tasks import TASKS
from experiments.tasks.base import Example
from experiments.tasks.hub_math import GSM8K, LM_EVAL_GSM8K

QUESTIONS = [f"What is {i} plus {i}?" for i in range(5)]
EXAMPLES = [
    Example(f"Question: {q}\nAnswer:", f" Twice.\n#### {2 * i}", str(2 * i))
    for i, q in enumerate(QUESTIONS)
]


@pytest.fixture
def harness(tmp_path, monkeypatch):
    """GSM8K's task of lm-eval, its data in a file."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "test.jsonl"
    rows = [{"question": q, "answer": f"Twice.\n#### {2 * i}"} for i, q in enumerate(QUESTIONS)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    local = {
        "dataset_path": "json",
        "dataset_name": None,
        "training_split": None,
        "fewshot_split": None,
    }
    kwargs = {"data_files": {"test": str(file)}, "cache_dir": str(tmp_path / "cache")}
    return replace(LM_EVAL_GSM8K, changes=local | {"dataset_kwargs": kwargs})


@pytest.fixture
def says(monkeypatch):
    """Sets what the model is taken to generate, by the question."""
    from lm_eval.models.huggingface import HFLM

    def taught(texts: dict[str, str]) -> None:
        def generate_until(self, requests, **_):
            return [
                texts[r.args[0].removeprefix("Question: ").removesuffix("\nAnswer:")]
                for r in requests
            ]

        monkeypatch.setattr(HFLM, "generate_until", generate_until)

    return taught


def test_the_task_is_pinned_to_the_data_that_we_read():
    assert LM_EVAL_GSM8K.changes["dataset_kwargs"]["revision"] == GSM8K.partition("@")[2]
    assert TASKS["metamath_gsm8k"].harness is LM_EVAL_GSM8K
    assert all(task.harness is None for name, task in TASKS.items() if name != "metamath_gsm8k")


def test_right_answers_are_right_in_our_order(tiny, harness, says):
    right = [True, False, True, True, False]
    says(
        {
            q: f" So.\n#### {2 * i if ok else 99}"
            for i, (q, ok) in enumerate(zip(QUESTIONS, right, strict=True))
        }
    )
    model, tokenizer = tiny
    assert right_answers(model, tokenizer, harness, EXAMPLES, 2) == right
    assert right_answers(model, tokenizer, harness, EXAMPLES[:2], 2) == right[:2]
    assert tokenizer.padding_side == "left"


def test_the_accuracy_is_lm_evals_and_the_cross_entropy_ours(tiny, harness, says):
    says({q: f"#### {2 * i}" for i, q in enumerate(QUESTIONS)})
    model, tokenizer = tiny
    config = replace(load_preset("smoke").run, task="metamath_gsm8k")
    score = evaluate(model, tokenizer, config, EXAMPLES, harness)
    assert (score.accuracy, score.correct) == (1.0, "11111")
    own = evaluate(model, tokenizer, config, EXAMPLES)
    assert own.accuracy == 0.0
    assert own.cross_entropy == pytest.approx(score.cross_entropy)


def test_the_model_itself_is_asked_with_its_adapter(harness):
    config = replace(load_preset("smoke").run, initial_rank=2, target_rank=2)
    base, tokenizer = load_base(config)
    model = prepare(base, config)
    assert right_answers(model, tokenizer, harness, EXAMPLES[:2], 2) == [False, False]


def test_questions_that_are_not_ours_are_refused(tiny, harness, says):
    says(dict.fromkeys(QUESTIONS, "#### 1"))
    model, tokenizer = tiny
    with pytest.raises(RuntimeError, match="not those of the test split"):
        right_answers(model, tokenizer, harness, EXAMPLES[::-1], 2)
