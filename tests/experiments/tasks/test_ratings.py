import re

import pytest

from experiments.tasks import TASKS


@pytest.mark.parametrize("name", ["movie_reviews", "product_reviews", "editorials", "tweets"])
def test_both_labels_occur_and_targets_are_labels(name):
    task = TASKS[name]
    labels = [e.answer for e in task.test(400)]
    assert set(labels) == set(task.labels)
    assert 0.25 < labels.count("positive") / len(labels) < 0.75
    assert all(e.target.strip() == e.answer and e.prompt.startswith(e.text) for e in task.test(50))


@pytest.mark.parametrize("name", ["movie_reviews", "product_reviews", "editorials", "tweets"])
def test_no_training_sentence_is_one_of_another_split_in_other_case_or_punctuation(name):
    task = TASKS[name]
    kept, trained = (
        {re.sub(r"\W|_", "", e.text.lower()) for e in examples}
        for examples in ([*task.test(10_000), *task.validation(10_000)], task.train(10_000, 0))
    )
    assert len(trained) > 2_000
    assert not kept & trained
