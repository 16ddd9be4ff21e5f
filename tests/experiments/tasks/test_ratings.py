import pytest

from experiments.tasks import TASKS


@pytest.mark.parametrize("name", ["movie_reviews", "product_reviews", "editorials", "tweets"])
def test_both_labels_occur_and_targets_are_labels(name):
    task = TASKS[name]
    labels = [e.answer for e in task.test(400)]
    assert set(labels) == set(task.labels)
    assert 0.25 < labels.count("positive") / len(labels) < 0.75
    assert all(e.target.strip() == e.answer and e.prompt.startswith(e.text) for e in task.test(50))
