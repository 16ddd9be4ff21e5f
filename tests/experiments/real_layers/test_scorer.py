import pytest
import torch

from experiments.real_layers.edits import changed
from prunedlora.factors import Factors


def test_a_pass_from_a_later_block_gives_the_loss_of_a_whole_pass(measured):
    candidate = next(c for p, c in measured.layers if p.depth == 1)
    B = candidate.factors.B
    with changed(candidate, Factors(2 * B, candidate.factors.A)):
        whole, part = measured.scorer.increase(0), measured.scorer.increase(1)
    assert whole == pytest.approx(part, abs=1e-12)
    assert whole["test"] != 0
    assert measured.scorer.increase(0) == {"calibration": 0.0, "test": 0.0}
    assert torch.equal(candidate.module.B, B)
