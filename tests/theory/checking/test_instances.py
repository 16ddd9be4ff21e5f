import torch
from torch import Generator

from theory import get_statement
from theory.checking.instances import entry


def test_one_entry_of_a_batch_checks_like_the_batch():
    statement = get_statement("S5.bound")
    batch = statement.sample(Generator().manual_seed(0), 5, **statement.shapes[1])
    torch.testing.assert_close(
        statement.check(batch).lhs[3:4], statement.check(entry(batch, 3)).lhs
    )
