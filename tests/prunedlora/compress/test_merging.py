"""Several adapters as one, against the dense sum."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from prunedlora import CompressConfig, merge_adapters
from prunedlora.errors import AdapterFileError, ConfigurationError, UnsupportedAdapterError
from tests.adapters_on_disk import best, configured, kohya, loaded, logits, products, saved
from tests.models import llama


def dense(sources, weights):
    total = {}
    for source, weight in zip(sources, weights, strict=True):
        for name, product in products(source).items():
            total[name] = total.get(name, 0) + weight * product
    return total


@pytest.mark.parametrize(("rank", "weights"), [(5, (0.7, -0.4)), (12, (1.0, 0.5))])
def test_folders_become_the_best_sum_of_that_rank(tmp_path, rank, weights):
    one = saved(tmp_path / "one", use_rslora=True, alpha_pattern={"q_proj": 3})
    two = saved(tmp_path / "two", r=4, lora_alpha=4, target_modules=["q_proj", "o_proj"], seed=5)
    config = CompressConfig(rank=rank, dtype="fp64")
    report = merge_adapters([one, two], tmp_path / "out", config, weights)
    expected = dense([one, two], weights)
    got = products(tmp_path / "out")
    assert got.keys() == expected.keys()
    for name, product in expected.items():
        torch.testing.assert_close(got[name], best(product, rank), rtol=0, atol=1e-9)
    assert (report.relative_error < 1e-12) == (rank == 12)
    # PEFT loads all modules, and the outputs are those of the base model with the sum in its weights.
    model = loaded(tmp_path / "out")
    reference = llama()
    for name, product in products(tmp_path / "out").items():
        reference.get_submodule(name).weight.data += product.float()
    torch.testing.assert_close(logits(model), logits(reference.eval()), rtol=0, atol=1e-4)


def test_files_with_convolutions_and_mixed_alphas(tmp_path):
    one = kohya(tmp_path / "one.safetensors", rank=4, alpha=2.0)
    two = kohya(tmp_path / "two.safetensors", rank=3, alpha=None, dtype=torch.bfloat16)
    out = tmp_path / "out.safetensors"
    merge_adapters([one, two, one], out, CompressConfig(rank=5), (1.0, 2.0, 0.5))
    for name, product in dense([one, two, one], (1.0, 2.0, 0.5)).items():
        error = (products(out)[name] - best(product, 5)).norm()
        assert error < 1e-6 * product.norm()
    assert all(t.dtype == torch.float32 for t in load_file(out).values())


def test_what_has_no_sum_is_refused_and_nothing_is_written(tmp_path):
    one = saved(tmp_path / "one")
    file = kohya(tmp_path / "a.safetensors")
    wide = kohya(tmp_path / "wide.safetensors")
    tensors = load_file(wide)
    tensors["lora_unet_attn_to_q.lora_up.weight"] = torch.ones(13, 4)
    save_file(tensors, wide)
    head = saved(tmp_path / "head", modules_to_save=["lm_head"])
    other = saved(tmp_path / "other", target_modules=["o_proj"])
    base = configured(tmp_path / "base", base_model_name_or_path="another")
    first = configured(tmp_path / "first", base_model_name_or_path="one")
    before = sorted(path.name for path in tmp_path.iterdir())
    for adapters, settings, weights, kind, message in (
        ([one], {}, None, ConfigurationError, "at least two"),
        ([one, one], {}, [1.0], ConfigurationError, "one finite weight"),
        ([one, one], {}, [1.0, math.nan], ConfigurationError, "one finite weight"),
        ([one, one], {"base": "x", "data": "y"}, None, ConfigurationError, "no data"),
        ([one, file], {}, None, ConfigurationError, "one format"),
        ([one, other], {}, None, ConfigurationError, "no module in common"),
        ([first, base], {}, None, ConfigurationError, "other base models"),
        ([one, head], {}, None, UnsupportedAdapterError, "not the same"),
    ):
        with pytest.raises(kind, match=message):
            merge_adapters(adapters, tmp_path / "out", CompressConfig(rank=2, **settings), weights)
    with pytest.raises(AdapterFileError, match="not of one base model"):
        merge_adapters([file, wide], tmp_path / "out.safetensors", CompressConfig(rank=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    report = merge_adapters([head, head], tmp_path / "out", CompressConfig(rank=2))
    assert json.loads((tmp_path / "out" / "pruning_report.json").read_text())["carried"]
    assert report.adapter == f"1 * {head} + 1 * {head}"
