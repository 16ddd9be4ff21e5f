"""Batches: what is masked, and which examples lie together."""

import itertools

import pytest
import torch

from experiments.finetuning.data import at_targets, batches, collate, encode
from experiments.tasks import Example
from prunedlora.statistics.targets import IGNORED


def test_prompts_and_padding_are_masked_and_the_end_token_is_taught(tiny):
    _, tokenizer = tiny
    short, long = (
        encode(Example("1 + 1 =", " 2", "2"), tokenizer),
        encode(Example("10 + 11 =", " 21", "21"), tokenizer),
    )
    batch = collate([short, long], tokenizer.pad_token_id, torch.device("cpu"))
    taught = [row[row != IGNORED].tolist() for row in batch["labels"]]
    assert [tokenizer.decode(row) for row in taught] == [" 2<|im_end|>", " 21<|im_end|>"]
    assert batch["attention_mask"].sum(dim=1).tolist() == [len(short.ids), len(long.ids)]


def test_the_loss_and_its_gradient_need_no_logits_of_prompts(tiny):
    model, tokenizer = tiny
    texts = ("1 + 1 =", " 2"), ("100 + 110 =", " 210"), ("7 =", " 7")
    plain = collate(
        [encode(Example(*t, ""), tokenizer) for t in texts],
        tokenizer.pad_token_id,
        torch.device("cpu"),
    )
    less, weights = at_targets(plain), list(model.parameters())
    assert len(less["logits_to_keep"]) < plain["labels"].shape[1] - 1
    losses = [model(**batch).loss for batch in (plain, less)]
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(*(torch.autograd.grad(loss, weights) for loss in losses[::-1]))


@pytest.mark.parametrize("groups", [1, 3, 100])
def test_batches_hold_every_example_once_and_similar_lengths_where_asked(groups):
    lengths = torch.randint(1, 60, (50,)).tolist()
    found = list(batches(lengths, size=4, groups=groups, seed=3))
    assert sorted(i for batch in found for i in batch) == list(range(50))
    assert all(len(batch) == 4 for batch in found) or len(found) == 13
    assert found == list(batches(lengths, size=4, groups=groups, seed=3))
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in found)
    plain = sum(max(lengths[i : i + 4]) * len(lengths[i : i + 4]) for i in range(0, 50, 4))
    assert (padded < plain) == (groups > 1)
    if groups == 3:  # no example leaves its twelve neighbours
        for i in range(0, 12, 3):
            assert set(itertools.chain(*found[i : i + 3])) == set(range(4 * i, 4 * i + 12))
