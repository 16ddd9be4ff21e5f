import pytest

from experiments.tasks import TASKS
from experiments.tasks.math import first_number, number_after_hashes


@pytest.mark.parametrize(
    "name", ["arithmetic", "gsm_symbolic", "movie_reviews", "product_reviews", "editorials", "tweets"]
)
def test_splits_are_disjoint_fixed_and_without_repetition(name):
    task = TASKS[name]
    test, validation = task.test(300), task.validation(300)
    train = task.train(2_000, seed=0)
    prompts = {e.prompt for e in test + validation}
    assert len(test) == len(validation) == 300
    assert len(prompts) == 600
    assert len(train) == 2_000
    assert len({e.prompt for e in train}) > 1_500
    assert prompts.isdisjoint(e.prompt for e in train)
    assert task.train(50, seed=0) == train[:50] != task.train(50, seed=1)
    assert task.test(20) == test[:20]


@pytest.mark.parametrize("name", ["arithmetic", "gsm_symbolic"])
def test_the_target_of_every_example_gives_its_answer(name):
    task = TASKS[name]
    for example in task.train(300, seed=0):
        assert float(task.read_answer(example.target)) == float(example.answer)


@pytest.mark.parametrize("name", ["movie_reviews", "product_reviews", "editorials", "tweets"])
def test_both_labels_occur_and_targets_are_labels(name):
    task = TASKS[name]
    labels = [e.answer for e in task.test(400)]
    assert set(labels) == set(task.labels)
    assert 0.25 < labels.count("positive") / len(labels) < 0.75
    assert all(e.target.strip() == e.answer and e.prompt.startswith(e.text) for e in task.test(50))


@pytest.mark.parametrize(
    ("text", "first", "final"),
    [
        (" -37", "-37", "-37"),
        ("12 or 13", "12", "13"),
        ("2*3=6\n#### 1,234.5 apples 7", "2", "1234.5"),
        ("no idea", "", ""),
    ],
)
def test_answers_are_read_off(text, first, final):
    assert first_number(text) == first
    assert number_after_hashes(text) == final
