import hashlib
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from prunedlora import CompressConfig, available_criteria, compress_adapter, inspect_adapter, verify_adapter
from prunedlora.compress.benchmark import compare, random_adapter, relative_error, through_dense
from prunedlora.compress.calibration import load_calibration
from prunedlora.compress.examples import Tokens, read_records, split
from prunedlora.criteria import get_criterion
from prunedlora.errors import AdapterFileError, ConfigurationError, UnsupportedAdapterError
from prunedlora.factors import squared_distance
from prunedlora.files.adapter_file import AdapterFile, open_adapter
from tests.adapters_on_disk import base_folder, kohya, loaded, logits, saved
from tests.layers import normal


def products(source):
    """s B A of every module in a file."""
    return {m.name: m.scaling * f.B.double() @ f.A.double() for m, f in open_adapter(source).factors()}


def best(product, rank):
    U, S, Vh = torch.linalg.svd(product, full_matrices=False)
    return U[:, :rank] * S[:rank] @ Vh[:rank]


def digest(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def examples(file, count=24):
    torch.manual_seed(0)
    texts = ["".join(chr(97 + int(i)) for i in torch.randint(26, (12,))) for _ in range(count)]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(file)


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
    assert report.bytes_after == (tmp_path / "b" / "adapter_model.safetensors").stat().st_size < report.bytes_before


def test_report_and_metadata_say_what_was_done(tmp_path):
    report = compress_adapter(saved(tmp_path / "a"), tmp_path / "b", CompressConfig(energy=0.9))
    assert json.loads((tmp_path / "b" / "pruning_report.json").read_text()) == json.loads(report.to_json())
    with safe_open(tmp_path / "b" / "adapter_model.safetensors", "pt") as file:
        metadata = json.loads(file.metadata()["prunedlora"])
    assert metadata["settings"] == report.settings
    assert metadata["settings"]["criterion"] == "svd"
    assert metadata["version"] == report.version


def test_the_error_is_that_of_pefts_dense_conversion():
    model = random_adapter([(96, 64), (40, 80)], 24)
    comparison = compare(model, 6, (1, 1))
    assert comparison.error == pytest.approx(comparison.error_dense, rel=1e-5)
    assert relative_error(model, through_dense(model, 24)) < 1e-5 < comparison.error


def test_distances_through_gram_matrices_are_those_of_the_products():
    B, A, B2, A2 = normal(1, 7, 4), normal(2, 4, 6), normal(3, 7, 2), normal(4, 2, 6)
    error, norm = squared_distance(B, A, B2, A2)
    assert error == pytest.approx(float((B @ A - B2 @ A2).square().sum()))
    assert norm == pytest.approx(float((B @ A).square().sum()))


@pytest.mark.parametrize("name", [n for n in available_criteria() if set(get_criterion(n).needs) <= {"noise"}])
def test_every_criterion_without_needs_works_from_the_file_alone(tmp_path, name):
    source = saved(tmp_path / "a")
    report = compress_adapter(source, tmp_path / "b", CompressConfig(rank=3, criterion=name))
    assert report.settings["criterion"] == name
    svd = compress_adapter(source, tmp_path / "c", CompressConfig(rank=3)).relative_error
    if report.settings["scope"] == "module":  # with a global budget it may be below
        assert svd - 1e-7 <= report.relative_error < 1
    loaded(tmp_path / "b")


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


@pytest.mark.parametrize("settings", [{}, {"scope": "global"}, {"scope": "global", "layout": "padded"}])
def test_a_size_is_kept_to_and_used_up(tmp_path, settings):
    source = saved(tmp_path / "a", r=200)
    size = 40_000
    report = compress_adapter(source, tmp_path / "b", CompressConfig(size=size, **settings))
    assert report.bytes_after <= size
    one_more = sum(4 * (m.d_out + m.d_in) for m in inspect_adapter(source).modules)
    assert report.bytes_after > size - one_more - 10_000  # what is set aside for the header
    with pytest.raises(ConfigurationError, match="rank 1 in every module"):
        compress_adapter(source, tmp_path / "c", CompressConfig(size=100))


def test_a_global_budget_minimises_the_total_error(tmp_path):
    source = saved(tmp_path / "a", alpha_pattern={"q_proj": 60})
    each = compress_adapter(source, tmp_path / "b", CompressConfig(rank=3))
    together = compress_adapter(source, tmp_path / "c", CompressConfig(rank=3, scope="global"))
    assert sum(together.ranks.values()) == sum(each.ranks.values())
    assert together.relative_error < each.relative_error
    values = [(float(v), n) for n, p in products(source).items() for v in torch.linalg.svdvals(p)[:8]]
    first = {name: max(value for value, n in values if n == name) for name in each.ranks}  # every module keeps one
    others = sorted((pair for pair in values if pair[0] != first[pair[1]]), reverse=True)
    kept = [name for _, name in others[: sum(each.ranks.values()) - len(first)]]
    assert together.ranks == {name: 1 + kept.count(name) for name in each.ranks}


@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, None), (torch.float16, None), (torch.float32, "bf16")])
def test_dtypes(tmp_path, dtype, name):
    source = saved(tmp_path / "a", dtype=dtype)
    report = compress_adapter(source, tmp_path / "b", CompressConfig(rank=8, dtype=name))
    written = {t.dtype for t in load_file(tmp_path / "b" / "adapter_model.safetensors").values()}
    assert written == {torch.bfloat16 if name else dtype}
    assert 0 < report.relative_error < 1e-2  # rounding only


@pytest.mark.parametrize("alpha", [2.0, None])
@pytest.mark.parametrize("layout", ["uniform", "ragged"])
def test_files_of_diffusion_tools(tmp_path, alpha, layout):
    source = kohya(tmp_path / "a.safetensors", alpha=alpha, dtype=torch.float16)
    wish = {"rank": 2} if layout == "uniform" else {"energy": 0.7}
    out = tmp_path / "b.safetensors"
    report = compress_adapter(source, out, CompressConfig(layout=layout, **wish))
    old, new = load_file(source), load_file(out)
    assert old.keys() == new.keys()
    for name, rank in report.ranks.items():
        down, up = new[f"{name}.lora_down.weight"], new[f"{name}.lora_up.weight"]
        assert down.shape == (rank, *old[f"{name}.lora_down.weight"].shape[1:])
        if alpha is not None:
            assert new[f"{name}.alpha"].item() == rank
            assert new[f"{name}.alpha"].shape == ()
        scale = 1.0 if alpha is None else alpha / 4
        before = old[f"{name}.lora_up.weight"].double().flatten(1) @ old[f"{name}.lora_down.weight"].double().flatten(1)
        after = up.double().flatten(1) @ down.double().flatten(1)
        torch.testing.assert_close(after, scale * best(before, rank), rtol=0, atol=3e-2)
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    assert metadata["mine"] == "kept"
    ranks = set(report.ranks.values())
    assert metadata["ss_network_dim"] == (str(ranks.pop()) if len(ranks) == 1 else "Dynamic")
    assert json.loads((tmp_path / "b.pruning_report.json").read_text())["ranks"] == report.ranks


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("x.hada_w1_a", UnsupportedAdapterError),
        ("x.lokr_w1", UnsupportedAdapterError),
        ("lora_unet_attn_to_q.dora_scale", UnsupportedAdapterError),
        ("lora_unet_conv1.lora_mid.weight", UnsupportedAdapterError),
        ("stranger.alpha", AdapterFileError),
    ],
)
def test_files_of_other_kinds_are_refused(tmp_path, key, kind):
    tensors = load_file(kohya(tmp_path / "a.safetensors"))
    save_file({**tensors, key: torch.ones(1)}, tmp_path / "c.safetensors")
    with pytest.raises(kind, match=key.split(".")[-1]):
        open_adapter(tmp_path / "c.safetensors")


def test_one_module_is_read_at_a_time(tmp_path, monkeypatch):
    """Before a module's factors are read, the output of those before it is there, and nothing else was read."""
    order, factors = [], AdapterFile.factors

    def watched(self):
        for item in factors(self):
            order.append(("read", item[0].name))
            yield item

    lower = get_criterion("svd").reduce
    monkeypatch.setattr(AdapterFile, "factors", watched)
    monkeypatch.setattr(
        "prunedlora.compress.config.get_criterion",
        lambda name: __import__("dataclasses").replace(
            get_criterion(name), reduce=lambda *a, **k: order.append(("lower", "")) or lower(*a, **k)
        ),
    )
    compress_adapter(saved(tmp_path / "a"), tmp_path / "b", CompressConfig(rank=2))
    assert [kind for kind, _ in order] == ["read", "lower"] * 6


def test_settings_that_contradict_each_other():
    for settings, message in (
        ({}, "exactly one"),
        ({"rank": 1, "energy": 0.5}, "exactly one"),
        ({"rank": 0}, "at least 1"),
        ({"energy": 1.5}, "energy"),
        ({"rank": 1, "base": "x"}, "go together"),
        ({"rank": 1, "criterion": "svd_kfac"}, "needs data"),
        ({"max_loss_increase": 0.1}, "needs data"),
        ({"rank": 1, "criterion": "nothing"}, "no criterion"),
        ({"rank": 1, "scope": "global", "layout": "uniform"}, "ragged"),
        ({"rank": 1, "scope": "global", "criterion": "random"}, "no unit"),
        ({"rank": 1, "scope": "module", "criterion": "para2026"}, "scope='global'"),
        ({"rank": 1, "options": {"x": 1}}, "no option"),
        ({"rank": 1, "samples": 1}, "samples"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            CompressConfig(**settings)


def test_a_rank_above_the_adapters_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="above 8"):
        compress_adapter(saved(tmp_path / "a"), tmp_path / "b", CompressConfig(rank=9))


def test_inspection_is_that_of_the_dense_product(tmp_path):
    source = saved(tmp_path / "a", use_rslora=True)
    for module in inspect_adapter(source).modules:
        values = torch.linalg.svdvals(products(source)[module.name])[: module.rank]
        torch.testing.assert_close(torch.tensor(module.singular_values), values.float())
        shares = values / values.sum()
        assert module.effective_rank == pytest.approx(float((-shares * shares.log()).sum().exp()))


def test_verification_with_a_base_model(tmp_path):
    base = str(base_folder(tmp_path / "base"))
    source = saved(tmp_path / "a")
    found = verify_adapter(source, base, device="cpu")
    assert found.passed
    assert {check.name for check in found.checks} >= {"loaded weights", "effect"}
    tensors = load_file(source / "adapter_model.safetensors")
    dead = {k: torch.zeros_like(t) if "lora_B" in k else t for k, t in tensors.items()}
    save_file(dead, source / "adapter_model.safetensors", metadata={"format": "pt"})
    failed = {check.name for check in verify_adapter(source, base, device="cpu").checks if not check.passed}
    assert failed == {"values", "effect"}


@pytest.mark.parametrize("criterion", [None, "svd_fisher", "prunedlora2025", "adalora2023", "llmpruner2023", "svd"])
def test_with_data_the_held_out_loss_is_that_of_what_was_written(tmp_path, criterion):
    base, data = str(base_folder(tmp_path / "base")), examples(tmp_path / "data.jsonl")
    source = saved(tmp_path / "a", rank_pattern={"q_proj": 3})
    config = CompressConfig(rank=5, criterion=criterion, base=base, data=data, samples=16, device="cpu")
    report = compress_adapter(source, tmp_path / "b", config)
    assert report.settings["criterion"] == (criterion or "svd_fisher")
    for folder, loss in ((source, report.loss_before), (tmp_path / "b", report.loss)):
        again = load_calibration(open_adapter(folder), base, data, 16, device="cpu").loss()
        assert again == pytest.approx(loss, abs=1e-5)
    assert report.loss_before != report.loss


def test_statistics_come_from_calibration_examples_only(tmp_path):
    base, data = str(base_folder(tmp_path / "base")), examples(tmp_path / "data.jsonl")
    source = open_adapter(saved(tmp_path / "a"))
    calibration = load_calibration(source, base, data, 16, device="cpu")
    before = calibration.statistics(get_criterion("svd_kfac"), 0)
    calibration.held_out = []
    after = calibration.statistics(get_criterion("svd_kfac"), 0)
    assert all(torch.equal(before[name].U, after[name].U) for name in before)
    assert before.keys() == {module.name for module in source.modules}


def test_the_moments_are_those_of_the_calibration_examples(tmp_path):
    """C_z against the definition, from hooks of the test's own."""
    base, data = str(base_folder(tmp_path / "base")), examples(tmp_path / "data.jsonl")
    calibration = load_calibration(open_adapter(saved(tmp_path / "a")), base, data, 12, device="cpu")
    name = "model.layers.0.self_attn.q_proj"
    seen = []
    layer = calibration.modules[name].layer.lora_A["default"]
    handle = layer.register_forward_hook(lambda m, i, o: seen.append(o.detach().flatten(0, 1)))
    measured = calibration.statistics(get_criterion("svd_kfac"), 0)[name]
    handle.remove()
    z = torch.cat(seen)
    assert len(z) == 9 * 12  # nine of twelve examples, of twelve letters
    torch.testing.assert_close(measured.C_z.float(), z.mT @ z / len(z), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scope", ["module", "global"])
def test_the_loss_may_rise_as_much_as_allowed(tmp_path, scope):
    base, data = str(base_folder(tmp_path / "base")), examples(tmp_path / "data.jsonl")
    source = saved(tmp_path / "a")
    config = CompressConfig(max_loss_increase=0.02, base=base, data=data, device="cpu", samples=16, scope=scope)
    report = compress_adapter(source, tmp_path / "b", config)
    assert report.loss <= report.loss_before * 1.02
    assert max(report.ranks.values()) <= 8
    loose = compress_adapter(
        source,
        tmp_path / "c",
        CompressConfig(max_loss_increase=10.0, base=base, data=data, device="cpu", samples=16, scope=scope),
    )
    assert set(loose.ranks.values()) == {1}


def test_a_wrong_base_model_is_refused(tmp_path):
    base, data = base_folder(tmp_path / "base"), examples(tmp_path / "data.jsonl")
    raw = json.loads((base / "config.json").read_text())
    source = saved(tmp_path / "a", target_modules=["q_proj", "down_proj"])
    for change in ({"num_hidden_layers": 1}, {"hidden_size": 32, "head_dim": 8}):
        from transformers import AutoConfig, AutoModelForCausalLM

        other = tmp_path / f"other{len(change)}"
        config = AutoConfig.for_model(**{**raw, **change})
        AutoModelForCausalLM.from_config(config).save_pretrained(str(other))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (other / name).write_bytes((base / name).read_bytes())
        with pytest.raises(ConfigurationError, match="base model"):
            compress_adapter(
                source, tmp_path / "b", CompressConfig(rank=2, base=str(other), data=data, device="cpu", samples=8)
            )
        assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("text", ["[1]\n", "{\n", '{"other": 1}\n' * 5, '{"text": "abc"}\n', ""])
def test_data_of_no_use_is_refused(tmp_path, text):
    base, data = str(base_folder(tmp_path / "base")), tmp_path / "data.jsonl"
    data.write_text(text)
    with pytest.raises(ConfigurationError):
        compress_adapter(
            saved(tmp_path / "a"), tmp_path / "b", CompressConfig(rank=2, base=base, data=str(data), device="cpu")
        )
    assert not (tmp_path / "b").exists()


def test_a_prompt_does_not_count(tmp_path):
    from transformers import AutoTokenizer

    from prunedlora.compress.examples import to_tokens

    tokenizer = AutoTokenizer.from_pretrained(str(base_folder(tmp_path / "base")))
    tokens = to_tokens({"prompt": "ab", "completion": "c"}, tokenizer)
    assert tokens == Tokens([3, 4, 5, 2], [-100, -100, 5, 2])


def test_examples_are_split_once_and_for_all(tmp_path):
    records = [Tokens([i], [i]) for i in range(40)]
    calibration, held_out = split(records, 20, 3)
    assert (len(calibration), len(held_out)) == (15, 5)
    assert not {e.ids[0] for e in calibration} & {e.ids[0] for e in held_out}
    assert split(records, 20, 3) == (calibration, held_out) != split(records, 20, 4)
    assert len(read_records(examples(tmp_path / "x.jsonl", 7))) == 7


def test_logits_change_when_the_rank_does(tmp_path):
    """The comparison of logits used elsewhere can fail."""
    source = saved(tmp_path / "a")
    compress_adapter(source, tmp_path / "b", CompressConfig(rank=1))
    assert (logits(loaded(tmp_path / "b")) - logits(loaded(source))).abs().max() > 1e-3
