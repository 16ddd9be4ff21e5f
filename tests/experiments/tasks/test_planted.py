"""Planted changes: their rank, spectrum and size, and that texts alone are left of the examples."""

import pytest
import torch

from experiments.tasks import TASKS
from experiments.tasks.planted import DECAYING, FLAT, draw_change

WEIGHT = torch.randn(96, 80, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("planted", [FLAT, DECAYING])
def test_a_change_has_the_spectrum_and_the_size_that_it_says(planted):
    change = draw_change(planted, WEIGHT, torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(change.double())[: planted.rank]
    expected = torch.arange(1, planted.rank + 1).double() ** -planted.decay
    torch.testing.assert_close(values / values[0], expected, rtol=1e-4, atol=1e-4)
    assert torch.linalg.matrix_rank(change, rtol=1e-4) == planted.rank
    assert change.norm().item() == pytest.approx(planted.size * WEIGHT.norm().item())


@pytest.mark.parametrize("name", ["planted_flat", "planted_decaying"])
def test_examples_have_a_text_and_no_answer_and_splits_are_disjoint(name):
    task = TASKS[name]
    splits = [task.test(200), task.validation(100), task.train(500, 0)]
    texts = [{e.text for e in split} for split in splits]
    assert all(e.text and not e.answer and not e.target for split in splits for e in split)
    assert len(set.union(*texts)) == sum(map(len, texts))
