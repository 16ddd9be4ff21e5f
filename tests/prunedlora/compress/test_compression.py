"""From file to file: what is written, and what the report says of it."""

import hashlib
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from prunedlora import CompressConfig, available_criteria, compress_adapter
from prunedlora.criteria import get_criterion
from prunedlora.errors import NonFiniteError
from prunedlora.files.adapter_file import AdapterFile, open_adapter
from tests.adapters_on_disk import best, edited, loaded, logits, products, saved


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


def mixed(file, ranks=(64, 2, 2, 2), conv=True):
    """A file of a diffusion tool whose modules have different ranks."""
    torch.manual_seed(0)
    tensors = {}
    for i, rank in enumerate(ranks):
        tensors[f"lora_unet_{i}.lora_down.weight"] = torch.randn(rank, 72)
        tensors[f"lora_unet_{i}.lora_up.weight"] = torch.randn(80, rank)
        tensors[f"lora_unet_{i}.alpha"] = torch.tensor(1.0)
    if conv:
        tensors["lora_unet_c.lora_down.weight"] = torch.randn(4, 6, 3, 3)
        tensors["lora_unet_c.lora_up.weight"] = torch.randn(8, 4, 1, 1)
        tensors["lora_unet_c.alpha"] = torch.tensor(1.0)
    save_file(tensors, file)
    return file


@pytest.mark.parametrize("wish", [{"rank": 32}, {"energy": 0.9}, {"size": 40_000}])
def test_a_file_of_modules_of_other_ranks_does_not_grow(tmp_path, wish):
    source, out = mixed(tmp_path / "a.safetensors"), tmp_path / "b.safetensors"
    report = compress_adapter(source, out, CompressConfig(**wish))
    old, new = load_file(source), load_file(out)
    assert report.bytes_after < report.bytes_before
    assert report.warnings == []
    assert all(new[key].numel() <= old[key].numel() for key in old)
    for name, rank in report.ranks.items():
        assert new[f"{name}.alpha"] == rank == new[f"{name}.lora_down.weight"].shape[0]


def test_a_size_is_used_up_by_modules_of_other_ranks(tmp_path):
    source = mixed(tmp_path / "a.safetensors", conv=False)
    report = compress_adapter(source, tmp_path / "b.safetensors", CompressConfig(size=30_000))
    # 8 kB are for the header, 4 kB for the modules of rank 2; the rest is the large one's.
    assert max(report.ranks.values()) >= 20


def test_a_file_that_grows_says_how_to_avoid_it(tmp_path):
    source = saved(tmp_path / "a", rank_pattern={"q_proj": 1, "v_proj": 1})
    report = compress_adapter(source, tmp_path / "b", CompressConfig(rank=8))
    assert report.bytes_after >= report.bytes_before
    assert "layout 'ragged'" in report.warnings[0]
    report = compress_adapter(source, tmp_path / "c", CompressConfig(rank=8, layout="ragged"))
    assert max(report.ranks.values()) == 8
    report = compress_adapter(source, tmp_path / "d", CompressConfig(rank=4, dtype="fp64"))
    assert "dtype" in report.warnings[0] or "ragged" in report.warnings[0]


@pytest.mark.parametrize(
    "wish",
    [
        {"rank": 44},
        {"rank": 44, "criterion": "magnitude"},
        {"rank": 44, "scope": "global"},
        {"rank": 44, "scope": "global", "criterion": "magnitude"},
        {"energy": 1.0},
    ],
)
def test_no_module_gets_a_rank_above_its_dimensions(tmp_path, wish):
    torch.manual_seed(0)
    tensors = {}
    for name, d_out, d_in in (("a", 40, 40), ("b", 64, 64), ("c", 30, 64)):
        tensors[f"{name}.lora_down.weight"] = torch.randn(48, d_in)
        tensors[f"{name}.lora_up.weight"] = torch.randn(d_out, 48)
    save_file(tensors, tmp_path / "a.safetensors")
    out = tmp_path / "b.safetensors"
    report = compress_adapter(tmp_path / "a.safetensors", out, CompressConfig(**wish))
    new = load_file(out)
    for name, largest in (("a", 40), ("b", 64), ("c", 30)):
        assert new[f"{name}.lora_down.weight"].shape[0] == report.ranks[name] <= largest


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_is_read_and_written_within_its_range(tmp_path, kind):
    torch.manual_seed(0)
    A, B = (torch.randn(4, 16) * 0.05).to(kind), (torch.randn(12, 4) * 2).to(kind)
    tensors = {"x.lora_down.weight": A, "x.lora_up.weight": B, "x.alpha": torch.tensor(0.01)}
    save_file(tensors, tmp_path / "a.safetensors")
    report = compress_adapter(
        tmp_path / "a.safetensors", tmp_path / "b.safetensors", CompressConfig(rank=4)
    )
    new = load_file(tmp_path / "b.safetensors")
    assert new["x.lora_up.weight"].dtype == new["x.lora_down.weight"].dtype == kind
    # Three digits or two behind the point of a binary number: an error of a few percent.
    assert 0 < report.relative_error < (0.06 if kind == torch.float8_e4m3fn else 0.12)
    expected = 0.01 / 4 * B.double() @ A.double()
    got = new["x.alpha"].double() / 4
    got = got * new["x.lora_up.weight"].double() @ new["x.lora_down.weight"].double()
    assert (got - expected).norm() / expected.norm() == pytest.approx(report.relative_error)


@pytest.mark.parametrize("layout", ["uniform", "ragged", "padded"])
def test_a_folder_in_float8_has_one_scaling(tmp_path, layout):
    source = saved(tmp_path / "a")
    wish = {"rank": 4} if layout == "uniform" else {"energy": 0.9}
    compress_adapter(source, tmp_path / "b", CompressConfig(dtype="fp8", layout=layout, **wish))
    written = open_adapter(tmp_path / "b")
    assert len({module.scaling for module in written.modules}) == 1
    assert {d for m in written.modules for d in (m.dtype_B, m.dtype_A)} == {torch.float8_e4m3fn}
    want = products(source)
    compress_adapter(source, tmp_path / "c", CompressConfig(dtype="fp32", layout=layout, **wish))
    for name, product in products(tmp_path / "b").items():
        exact = products(tmp_path / "c")[name]
        assert (product - exact).norm() < 0.06 * want[name].norm()
    assert logits(loaded(tmp_path / "b")).isfinite().all()


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (torch.float32, torch.bfloat16),
        (torch.float16, torch.float32),
        (torch.float64, torch.float32),
        (torch.bfloat16, torch.float8_e4m3fn),
    ],
)
@pytest.mark.parametrize("dtype", [None, "fp32"])
def test_factors_of_two_dtypes_keep_them_unless_one_is_asked_for(tmp_path, left, right, dtype):
    torch.manual_seed(0)
    B, A = torch.randn(12, 4).to(left), torch.randn(4, 16).to(right)
    names = ("x.lora_up.weight", "x.lora_down.weight")
    save_file(dict(zip(names, (B, A), strict=True)), tmp_path / "a.safetensors")
    out = tmp_path / "b.safetensors"
    config = CompressConfig(rank=2, dtype=dtype, layout="padded")
    report = compress_adapter(tmp_path / "a.safetensors", out, config)
    new = load_file(out)
    wanted = [torch.float32] * 2 if dtype else [left, right]
    assert [new[name].dtype for name in names] == wanted
    exact = B.double() @ A.double()
    rounding = sum(torch.finfo(d).eps for d in wanted)
    product = products(out)["x"]
    assert (product - best(exact, 2)).norm() < 1.5 * rounding * exact.norm()
    error = (product - exact).norm() / exact.norm()
    assert float(error) == pytest.approx(report.relative_error)


def test_a_folder_of_two_dtypes_opens_with_peft(tmp_path):
    def change(tensors):
        tensors.update({k: t.bfloat16() for k, t in tensors.items() if "lora_A" in k})

    source = edited(tmp_path / "a", change)
    compress_adapter(source, tmp_path / "b", CompressConfig(rank=8))
    before, after = logits(loaded(source)), logits(loaded(tmp_path / "b"))
    torch.testing.assert_close(after, before, rtol=0, atol=0.02 * float(before.abs().max()))


def test_what_is_written_in_float64_has_its_digits(tmp_path):
    source = saved(tmp_path / "a")
    compress_adapter(source, tmp_path / "b", CompressConfig(rank=3, dtype="fp64"))
    new = products(tmp_path / "b")
    for name, product in products(source).items():
        assert (new[name] - best(product, 3)).norm() < 1e-13 * product.norm()


def test_an_error_near_rounding_is_neither_zero_nor_noise(tmp_path):
    source = saved(tmp_path / "a")
    report = compress_adapter(source, tmp_path / "b", CompressConfig(rank=8, dtype="fp64"))
    old, new = products(source), products(tmp_path / "b")
    true = sum(float((new[n] - old[n]).square().sum()) for n in old) ** 0.5
    size = sum(float(old[n].square().sum()) for n in old) ** 0.5
    assert 0 < report.relative_error < 1e-14
    assert report.relative_error == pytest.approx(true / size, rel=1)


@pytest.mark.parametrize(
    ("alpha", "dtype", "ok"),
    [
        (1e-3, torch.float16, True),
        (1e-16, torch.float16, False),
        (1e-44, torch.float32, True),
        (1e-44, torch.bfloat16, True),
        (1e-90, torch.float32, False),
        (1e38, torch.float32, True),
    ],
)
def test_a_small_or_large_scaling_does_not_leave_the_range_of_the_dtype(tmp_path, alpha, dtype, ok):
    torch.manual_seed(0)
    tensors = {
        "x.lora_down.weight": torch.randn(4, 30).to(dtype),
        "x.lora_up.weight": (torch.randn(30, 4) * 1e-2).to(dtype),
        "x.alpha": torch.tensor(alpha, dtype=torch.float64),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    out = tmp_path / "b.safetensors"
    if ok:
        compress_adapter(tmp_path / "a.safetensors", out, CompressConfig(rank=4))
        old, new = products(tmp_path / "a.safetensors")["x"], products(out)["x"]
        assert (old - new).norm() < 2 * torch.finfo(dtype).eps * old.norm()
    else:
        with pytest.raises(NonFiniteError, match="too small"):
            compress_adapter(tmp_path / "a.safetensors", out, CompressConfig(rank=4))
