"""Ranks chosen for a rank, a share of energy, a size or an increase of the loss."""

import pytest
import torch
from safetensors.torch import save_file

from prunedlora import CompressConfig, compress_adapter, inspect_adapter
from prunedlora.compress import compression
from prunedlora.compress.calibration import Calibration
from prunedlora.compress.modules import compress_modules, score_all
from prunedlora.errors import ConfigurationError
from prunedlora.files.adapter_file import open_adapter
from prunedlora.ranks.targets import by_total
from tests.adapters_on_disk import base_folder, examples, products, saved


def test_energy_per_module_and_with_one_rank(tmp_path):
    source = saved(tmp_path / "a")
    ragged = compress_adapter(source, tmp_path / "b", CompressConfig(energy=0.8, layout="ragged"))
    uniform = compress_adapter(source, tmp_path / "c", CompressConfig(energy=0.8))
    for name, product in products(source).items():
        values = torch.linalg.svdvals(product).square()
        kept = values.cumsum(0) / values.sum()
        assert ragged.ranks[name] == int((kept < 0.8).sum()) + 1
        assert kept[uniform.ranks[name] - 1] >= 0.8
    assert set(uniform.ranks.values()) == {max(ragged.ranks.values())}


@pytest.mark.parametrize(
    "settings", [{}, {"scope": "global"}, {"scope": "global", "layout": "padded"}]
)
def test_a_size_is_kept_to_and_used_up(tmp_path, settings):
    source = saved(tmp_path / "a", r=200)
    size = 16_000  # the whole adapter would take 12,000 bytes, and 8,192 are for the header
    report = compress_adapter(source, tmp_path / "b", CompressConfig(size=size, **settings))
    assert report.bytes_after <= size
    one_more = sum(4 * (m.d_out + m.d_in) for m in inspect_adapter(source).modules)
    assert report.bytes_after > size - one_more - 10_000  # what is set aside for the header
    with pytest.raises(ConfigurationError, match=r"rank 1 in every module .* only 0 fit"):
        compress_adapter(source, tmp_path / "c", CompressConfig(size=100))


def test_a_global_budget_minimises_the_total_error(tmp_path):
    source = saved(tmp_path / "a", alpha_pattern={"q_proj": 60})
    each = compress_adapter(source, tmp_path / "b", CompressConfig(rank=3))
    together = compress_adapter(source, tmp_path / "c", CompressConfig(rank=3, scope="global"))
    assert sum(together.ranks.values()) == sum(each.ranks.values())
    assert together.relative_error < each.relative_error
    values = [
        (float(v), n) for n, p in products(source).items() for v in torch.linalg.svdvals(p)[:8]
    ]
    first = {
        name: max(value for value, n in values if n == name) for name in each.ranks
    }  # every module keeps one
    others = sorted((pair for pair in values if pair[0] != first[pair[1]]), reverse=True)
    kept = [name for _, name in others[: sum(each.ranks.values()) - len(first)]]
    assert together.ranks == {name: 1 + kept.count(name) for name in each.ranks}


def test_a_rank_above_the_adapters_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="above 8"):
        compress_adapter(saved(tmp_path / "a"), tmp_path / "b", CompressConfig(rank=9))


@pytest.mark.parametrize("scope", ["module", "global"])
def test_the_loss_may_rise_as_much_as_allowed(tmp_path, scope):
    base, data = str(base_folder(tmp_path / "base")), examples(tmp_path / "data.jsonl")
    source = saved(tmp_path / "a")
    settings = {"criterion": "svd_kfac", "base": base, "data": data, "device": "cpu", "samples": 16}
    config = CompressConfig(max_loss_increase=0.02, scope=scope, **settings)
    report = compress_adapter(source, tmp_path / "b", config)
    assert report.loss <= report.loss_before * 1.02
    assert max(report.ranks.values()) <= 8
    config = CompressConfig(max_loss_increase=10.0, scope=scope, **settings)
    loose = compress_adapter(source, tmp_path / "c", config)
    assert set(loose.ranks.values()) == {1}


def test_with_one_budget_the_smallest_total_within_the_loss_is_met_and_no_rank_computed_twice(
    tmp_path, monkeypatch
):
    """With a loss that rises by a hundredth for each component that is gone, of 24."""
    base, data = str(base_folder(tmp_path / "base")), examples(tmp_path / "data.jsonl")
    source = saved(tmp_path / "a", r=4, alpha_pattern={"q_proj": 60})
    asked = []

    def counted(source, config, measured, ranks):
        asked.extend((name, rank) for name, rank in ranks.items() if rank)
        return compress_modules(source, config, measured, ranks)

    def loss_with(self, modules):
        return 1 + 0.01 * (24 - sum(factors.rank for factors in modules.values()))

    monkeypatch.setattr(compression, "compress_modules", counted)
    monkeypatch.setattr(Calibration, "loss", lambda self: 1.0)
    monkeypatch.setattr(Calibration, "loss_with", loss_with)
    settings = {"criterion": "svd", "base": base, "data": data, "device": "cpu", "samples": 4}
    config = CompressConfig(max_loss_increase=0.1001, scope="global", **settings)
    report = compress_adapter(source, tmp_path / "b", config)
    assert len(report.ranks) == 6
    assert sum(report.ranks.values()) == 14
    opened = open_adapter(source)
    expected = by_total(config.rule, score_all(opened, config, {}), 14)
    assert report.ranks == expected
    assert len(set(expected.values())) > 1
    assert len(asked) == len(set(asked))


def spectra(file, **spectra_of):
    """A file alone whose modules have given singular values; those named conv are 3x3 convolutions."""
    tensors = {}
    for name, values in spectra_of.items():
        r = len(values)
        kernel = (3, 3) if name.startswith("conv") else ()
        down = torch.eye(r, 18).reshape(r, 2, 3, 3) if kernel else torch.eye(r, 18)
        tensors[f"{name}.lora_down.weight"] = down
        up = torch.eye(20, r) * torch.tensor(values)
        tensors[f"{name}.lora_up.weight"] = up.reshape(20, r, 1, 1) if kernel else up
    save_file(tensors, file)
    return file


SHARP = [10.0, 9.0, 0.5, 0.4, 0.3, 0.2]
FLAT = [3.0, 2.9, 2.8, 2.7, 2.6, 2.5]


@pytest.mark.parametrize(
    ("wish", "sharp", "flat"),
    [
        ({"energy": 0.99}, 2, 6),
        ({"energy": 0.99, "rank": 4}, 2, 4),
        ({"cumulative": 0.95}, 3, 6),
        ({"ratio": 2.0}, 2, 6),
        ({"ratio": 2.0, "rank": 1}, 1, 1),
        ({"knee": 1.0}, 2, 6),
        ({"energy": 0.99, "round_to": 4}, 4, 6),
        ({"energy": 0.99, "round_to": 4, "rank": 4}, 4, 4),
    ],
)
def test_ranks_are_read_off_the_spectrum(tmp_path, wish, sharp, flat):
    source = spectra(tmp_path / "a.safetensors", sharp=SHARP, flat=FLAT)
    report = compress_adapter(source, tmp_path / "b.safetensors", CompressConfig(**wish))
    assert report.ranks == {"sharp": sharp, "flat": flat}


def test_convolutions_have_a_rank_of_their_own(tmp_path):
    source = spectra(tmp_path / "a.safetensors", linear=FLAT, conv=FLAT)
    for wish, ranks in (
        ({"rank": 4, "conv_rank": 2}, (4, 2)),
        ({"rank": 2, "conv_rank": 5}, (2, 5)),
        ({"energy": 1.0, "rank": 3, "conv_rank": 1}, (3, 1)),
    ):
        out = tmp_path / f"{ranks}.safetensors"
        report = compress_adapter(source, out, CompressConfig(**wish))
        assert (report.ranks["linear"], report.ranks["conv"]) == ranks


@pytest.mark.parametrize("layout", ["uniform", "padded", "ragged"])
@pytest.mark.parametrize("wish", [{"energy": 0.8}, {"rank": 4}, {"size": 16_000}])
def test_every_written_rank_is_a_multiple(tmp_path, layout, wish):
    source = saved(tmp_path / "a", r=10, rank_pattern={"v_proj": 3})
    config = CompressConfig(round_to=4, layout=layout, dtype="fp32", **wish)
    compress_adapter(source, tmp_path / "b", config)
    assert {m.rank % 4 for m in open_adapter(tmp_path / "b").modules} == {0}
    for name, product in products(tmp_path / "b").items():
        assert torch.linalg.matrix_rank(product, rtol=1e-5) <= 10, name


def test_the_loss_is_searched_in_multiples(tmp_path):
    base, data = str(base_folder(tmp_path / "base")), examples(tmp_path / "data.jsonl")
    source = saved(tmp_path / "a")
    config = CompressConfig(
        max_loss_increase=10.0, round_to=4, base=base, data=data, device="cpu", samples=8
    )
    assert set(compress_adapter(source, tmp_path / "b", config).ranks.values()) == {4}
