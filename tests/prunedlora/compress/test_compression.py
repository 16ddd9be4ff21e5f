"""From file to file: what is written, and what the report says of it."""

import hashlib
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from prunedlora import CompressConfig, available_criteria, compress_adapter
from prunedlora.criteria import get_criterion
from prunedlora.files.adapter_file import AdapterFile
from tests.adapters_on_disk import best, loaded, logits, products, saved


def digest(folder):
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_svd_writes_the_best_approximation_and_reports_its_error(tmp_path):
    source = saved(tmp_path / "a")
    before = digest(source)
    report = compress_adapter(source, tmp_path / "b", CompressConfig(rank=3))
    old, new = products(source), products(tmp_path / "b")
    error = norm = 0.0
    for name, product in old.items():
        torch.testing.assert_close(new[name], best(product, 3), rtol=0, atol=1e-6)
        error, norm = error + (new[name] - product).square().sum(), norm + product.square().sum()
    assert report.relative_error == pytest.approx(float((error / norm).sqrt()), rel=1e-6)
    assert digest(source) == before
    assert (
        report.bytes_after
        == (tmp_path / "b" / "adapter_model.safetensors").stat().st_size
        < report.bytes_before
    )


def test_report_and_metadata_say_what_was_done(tmp_path):
    report = compress_adapter(saved(tmp_path / "a"), tmp_path / "b", CompressConfig(energy=0.9))
    assert json.loads((tmp_path / "b" / "pruning_report.json").read_text()) == json.loads(
        report.to_json()
    )
    with safe_open(tmp_path / "b" / "adapter_model.safetensors", "pt") as file:
        metadata = json.loads(file.metadata()["prunedlora"])
    assert metadata["settings"] == report.settings
    assert metadata["settings"]["criterion"] == "svd"
    assert metadata["version"] == report.version


@pytest.mark.parametrize(
    "name", [n for n in available_criteria() if set(get_criterion(n).needs) <= {"noise"}]
)
def test_every_criterion_without_needs_works_from_the_file_alone(tmp_path, name):
    source = saved(tmp_path / "a")
    report = compress_adapter(source, tmp_path / "b", CompressConfig(rank=3, criterion=name))
    assert report.settings["criterion"] == name
    svd = compress_adapter(source, tmp_path / "c", CompressConfig(rank=3)).relative_error
    if report.settings["scope"] == "module":  # with a global budget it may be below
        assert svd - 1e-7 <= report.relative_error < 1
    loaded(tmp_path / "b")


@pytest.mark.parametrize(
    ("dtype", "name"), [(torch.bfloat16, None), (torch.float16, None), (torch.float32, "bf16")]
)
def test_dtypes(tmp_path, dtype, name):
    source = saved(tmp_path / "a", dtype=dtype)
    report = compress_adapter(source, tmp_path / "b", CompressConfig(rank=8, dtype=name))
    written = {t.dtype for t in load_file(tmp_path / "b" / "adapter_model.safetensors").values()}
    assert written == {torch.bfloat16 if name else dtype}
    assert 0 < report.relative_error < 1e-2  # rounding only


def test_one_module_is_read_at_a_time(tmp_path, monkeypatch):
    """Before a module's factors are read, the output of those before it is there, and nothing else was read."""
    order, factors = [], AdapterFile.factors

    def watched(self):
        for item in factors(self):
            order.append(("read", item[0].name))
            yield item

    reduce = get_criterion("svd").reduce
    monkeypatch.setattr(AdapterFile, "factors", watched)
    monkeypatch.setattr(
        "prunedlora.criteria.get_criterion",
        lambda name: __import__("dataclasses").replace(
            get_criterion(name),
            reduce=lambda *a, **k: order.append(("reduced", "")) or reduce(*a, **k),
        ),
    )
    compress_adapter(saved(tmp_path / "a"), tmp_path / "b", CompressConfig(rank=2))
    assert [kind for kind, _ in order] == ["read", "reduced"] * 6


def test_logits_change_when_the_rank_does(tmp_path):
    """The comparison of logits used elsewhere can fail."""
    source = saved(tmp_path / "a")
    compress_adapter(source, tmp_path / "b", CompressConfig(rank=1))
    assert (logits(loaded(tmp_path / "b")) - logits(loaded(source))).abs().max() > 1e-3
