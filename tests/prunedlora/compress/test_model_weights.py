"""Weights of base models, which scores may be relative to."""

import pytest
import torch
from safetensors.torch import save_file

from prunedlora import CompressConfig, compress_adapter
from prunedlora.compress.model_weights import weight_norms
from prunedlora.errors import AdapterFileError, ConfigurationError, NonFiniteError
from prunedlora.files.adapter_file import open_adapter
from prunedlora.ranks.budget import allocate
from tests.adapters_on_disk import kohya, products, saved
from tests.models import llama


@pytest.mark.parametrize("shard_size", ["1GB", "20KB"])
def test_norms_are_those_of_the_model(tmp_path, shard_size):
    llama().save_pretrained(tmp_path / "base", max_shard_size=shard_size)
    norms = weight_norms(tmp_path / "base", open_adapter(saved(tmp_path / "a")).modules)
    weights = llama().state_dict()
    assert len(norms) == 6
    for name, norm in norms.items():
        assert norm == pytest.approx(float(weights[f"{name}.weight"].double().norm()), rel=1e-12)


def test_the_budget_goes_where_the_change_is_large_beside_the_weight(tmp_path):
    source = saved(tmp_path / "a")
    model = llama()
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():  # of sizes that differ by much
        weight.data *= 10 ** float(torch.rand((), generator=generator))
    model.save_pretrained(tmp_path / "base")
    base = str(tmp_path / "base")
    config = CompressConfig(rank=4, scope="global", relative_to=base)
    report = compress_adapter(source, tmp_path / "b", config)
    weights = model.state_dict()
    shares = {
        name: (torch.linalg.svdvals(product)[:8] / weights[f"{name}.weight"].double().norm()) ** 2
        for name, product in products(source).items()
    }
    assert report.ranks == allocate(shares, 4 * len(shares))
    plain = compress_adapter(source, tmp_path / "c", CompressConfig(rank=4, scope="global"))
    assert plain.ranks != report.ranks


def test_names_with_underscores_are_found_in_a_model_of_another_tool(tmp_path):
    file = kohya(tmp_path / "a.safetensors")
    shapes = {"attn.to_q": (12, 10), "proj_in": (12, 10, 1, 1), "conv1": (8, 6, 3, 3)}
    base = {f"{name}.weight": torch.full(shape, 2.0) for name, shape in shapes.items()}
    save_file(base, tmp_path / "base.safetensors")
    norms = weight_norms(tmp_path / "base.safetensors", open_adapter(file).modules)
    assert norms["lora_unet_conv1"] == pytest.approx(2.0 * (8 * 6 * 9) ** 0.5)
    # Two that might be meant are none.
    twice = {f"{part}.{key}": t.clone() for key, t in base.items() for part in "ab"}
    save_file(twice, tmp_path / "twice.safetensors")
    with pytest.raises(ConfigurationError, match="clearly that of lora_unet_attn_to_q"):
        weight_norms(tmp_path / "twice.safetensors", open_adapter(file).modules)


def test_a_model_that_does_not_fit_is_refused(tmp_path):
    source = saved(tmp_path / "a")
    names = [f"{module.name}.weight" for module in open_adapter(source).modules]
    weights = {name: p.data.clone() for name, p in llama().named_parameters() if name in names}
    (tmp_path / "empty").mkdir()
    for change, error, message in (
        (lambda t: t.pop(names[0]), ConfigurationError, "clearly"),
        (lambda t: t.update({names[0]: torch.ones(3, 3)}), ConfigurationError, "clearly"),
        (lambda t: t.update({names[0]: t[names[0]] * 0}), ConfigurationError, "is zero"),
        (lambda t: t.update({names[0]: t[names[0]] * float("nan")}), NonFiniteError, "NaN"),
    ):
        tensors = dict(weights)
        change(tensors)
        save_file(tensors, tmp_path / "base.safetensors")
        config = CompressConfig(
            rank=2, scope="global", relative_to=str(tmp_path / "base.safetensors")
        )
        with pytest.raises(error, match=message):
            compress_adapter(source, tmp_path / "out", config)
        assert not (tmp_path / "out").exists()
    for missing in ("empty", "none"):
        config = CompressConfig(rank=2, scope="global", relative_to=str(tmp_path / missing))
        with pytest.raises(AdapterFileError):
            compress_adapter(source, tmp_path / "out", config)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scope": "module"},
        {"scope": "global", "criterion": "svd_kfac", "base": "x", "data": "y"},
    ],
)
def test_relative_scores_go_with_one_budget_and_no_loss(settings):
    with pytest.raises(ConfigurationError, match="relative_to goes with"):
        CompressConfig(rank=2, relative_to="base", **settings)
