import pytest
import torch

from prunedlora import inspect_adapter
from tests.adapters_on_disk import products, saved


def test_inspection_is_that_of_the_dense_product(tmp_path):
    source = saved(tmp_path / "a", use_rslora=True)
    for module in inspect_adapter(source).modules:
        values = torch.linalg.svdvals(products(source)[module.name])[: module.rank]
        torch.testing.assert_close(torch.tensor(module.singular_values), values.float())
        shares = values / values.sum()
        assert module.effective_rank == pytest.approx(float((-shares * shares.log()).sum().exp()))
