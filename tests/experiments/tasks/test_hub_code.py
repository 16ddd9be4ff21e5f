"""Conversations about code from the hub, made up here."""

import pytest

from experiments.tasks import TASKS, hub_code


def conversation(i: int, answer: str) -> dict:
    said = (
        ("user", f"Question {i}"),
        ("assistant", answer),
        ("user", "Better?"),
        ("assistant", "No."),
    )
    return {"id": i, "messages": [{"role": role, "content": content} for role, content in said]}


@pytest.fixture
def conversations(monkeypatch):
    tested = hub_code.problems()[0]["entry_point"]
    good = [
        conversation(i % 40, f"So:\n```python\ndef made_up_{i}(): return {i}\n```")
        for i in range(50)
    ]
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
    assert all(
        e.target.startswith(" So:\n```python\ndef made_up_") and "Better?" not in e.target
        for e in train
    )
    assert task.train(5, seed=0) == train[:5] != task.train(5, seed=1)


def test_answers_in_a_block_pass_the_tests_of_their_problem_and_others_do_not():
    task = TASKS["code_feedback"]
    for example in task.test(12):
        assert task.judge(task.read_answer(example.target), example), example.prompt
        assert not task.judge(
            task.read_answer("```python\ndef something_else():\n    pass\n```"), example
        )
    assert task.read_answer("text\n```\nx\n```") == "x\n"
    assert task.read_answer("x = 1") == "x = 1"
