"""Other methods and differences as LoRA, against the dense changes."""

import json

import peft
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from prunedlora import CompressConfig, compress_adapter, extract_adapter
from prunedlora.errors import AdapterFileError, PrunedLoRAError, UnsupportedAdapterError
from prunedlora.files.header import read_header
from tests.adapters_on_disk import best, kohya, logits, loha, products, tuned_folder
from tests.models import llama

STEM = "base_model.model.model.layers.0.self_attn.q_proj"


def random(*shape):
    return torch.randn(shape, dtype=torch.float64)


def cases():
    """Tensors of a module, and the change that ComfyUI's loader makes of them."""
    torch.manual_seed(0)
    P, Q, R, S = random(8, 2), random(2, 9), random(8, 2), random(2, 9)
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    yield "loha", dict(zip(names, (P, Q, R, S), strict=True)), 3.0, (P @ Q) * (R @ S) * 3 / 2
    wide = [x.repeat(1, 2) if i % 2 == 0 else x.repeat(2, 1) for i, x in enumerate((P, Q, R, S))]
    yield (
        "loha of a high rank",
        dict(zip(names, wide, strict=True)),
        3.0,
        (wide[0] @ wide[1]) * (wide[2] @ wide[3]) * 3 / 4,
    )
    cores, left, right = [random(2, 2, 3, 3) for _ in "ab"], random(2, 8), random(2, 5)
    kernels = [torch.einsum("ijkl,jr,ip->prkl", core, right, left) for core in cores]
    tucker = dict(zip(("hada_t1", "hada_t2"), cores, strict=True))
    tucker |= dict(zip(names, (left, right, left, right), strict=True))
    yield "loha of a convolution", tucker, 1.0, (kernels[0] * kernels[1] / 2).flatten(1)
    w1, w2 = random(2, 3), random(4, 5)
    yield "lokr in full", {"lokr_w1": w1, "lokr_w2": w2}, 7.0, torch.kron(w1, w2)
    a, b = random(4, 2), random(2, 5)
    half = {"lokr_w1": w1, "lokr_w2_a": a, "lokr_w2_b": b}
    yield "lokr", half, 3.0, torch.kron(w1, a @ b) * 3 / 2
    c, d = random(2, 1), random(1, 3)
    both = {"lokr_w1_a": c, "lokr_w1_b": d, "lokr_w2_a": a, "lokr_w2_b": b}
    yield "lokr of two products", both, None, torch.kron(c @ d, a @ b)
    kernel = random(4, 5, 3, 3)
    change = torch.kron(w1[:, :, None, None], kernel).flatten(1)
    yield "lokr of a convolution", {"lokr_w1": w1, "lokr_w2": kernel}, None, change
    diff = random(6, 4, 3, 3)
    yield "difference", {"diff": diff}, None, diff.flatten(1)


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case[0])
@pytest.mark.parametrize("rank", [2, 4])
def test_a_change_becomes_the_best_lora_of_that_rank(tmp_path, case, rank):
    _, tensors, alpha, change = case
    rank = min(rank, int(torch.linalg.matrix_rank(change)))
    stored = {f"m.{end}": tensor.clone() for end, tensor in tensors.items()}
    stored |= {} if alpha is None else {"m.alpha": torch.tensor(alpha)}
    others = {"m.diff_b": torch.ones(3), "norm.w_norm": torch.ones(4)}
    save_file(stored | others, tmp_path / "a.safetensors")
    out = tmp_path / "b.safetensors"
    report = extract_adapter(tmp_path / "a.safetensors", out, CompressConfig(rank=rank))
    torch.testing.assert_close(products(out)["m"], best(change, rank), rtol=0, atol=1e-9)
    assert report.carried == sorted(others)
    assert load_file(out).keys() == others.keys() | {"m.lora_up.weight", "m.lora_down.weight"} | (
        {"m.alpha"} if "m.alpha" in load_file(out) else set()
    )


LOKR = {"lokr_w1": (2, 3), "lokr_w2_a": (4, 2), "lokr_w2_b": (2, 5)}
LOHA = {"hada_w1_a": (8, 2), "hada_w1_b": (2, 9), "hada_w2_a": (8, 2), "hada_w2_b": (2, 9)}


@pytest.mark.parametrize(
    "shapes",
    [
        LOKR | {"lokr_w1": (0, 3)},
        LOKR | {"lokr_w2_a": (4, 3)},
        LOKR | {"lokr_w1": (2, 3, 1)},
        LOKR | {"lokr_w2": (4, 5)},  # one too many
        LOKR | {"lokr_t2": (1, 1, 3, 3)},
        LOKR | {"hada_w1_a": (8, 2)},
        LOHA | {"hada_w1_a": (1, 2)},  # torch would repeat it
        LOHA | {"hada_w2_b": (2, 1)},
        LOHA | {"hada_w2_a": (8, 3), "hada_w2_b": (3, 9)},
        LOHA | {"hada_w1_a": (8, 3), "hada_w2_a": (8, 3)},
        LOHA | {"hada_t1": (2, 2, 3, 3)},
        LOHA | {"lokr_w1": (2, 2)},
    ],
)
def test_tensors_that_do_not_fit_each_other_are_refused(tmp_path, shapes):
    tensors = {f"x.{end}": torch.ones(shape) for end, shape in shapes.items()}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(AdapterFileError, match="do not fit each other"):
        extract_adapter(
            tmp_path / "a.safetensors", tmp_path / "b.safetensors", CompressConfig(rank=1)
        )


def test_integers_are_refused(tmp_path):
    tensors = {f"x.{end}": torch.ones(shape, dtype=torch.int32) for end, shape in LOKR.items()}
    save_file(tensors | {"x.lokr_w1": torch.ones(2, 3)}, tmp_path / "a.safetensors")
    with pytest.raises(AdapterFileError, match="stored as torch"):
        extract_adapter(
            tmp_path / "a.safetensors", tmp_path / "b.safetensors", CompressConfig(rank=1)
        )


@pytest.mark.parametrize(
    ("alpha", "message"), [(torch.ones(2), "single number"), (torch.tensor(0.0), "is 0")]
)
def test_an_alpha_that_is_not_one_number_is_refused(tmp_path, alpha, message):
    file = loha(tmp_path / "a.safetensors")
    save_file(load_file(file) | {"x.alpha": alpha}, file)
    with pytest.raises(AdapterFileError, match=message):
        extract_adapter(file, tmp_path / "b.safetensors", CompressConfig(rank=1))


@pytest.mark.parametrize("text", ["[", '{"r": 4, "lora_alpha": 2}'])
def test_ranks_that_the_header_says_of_lora_are_left_out_where_there_was_none(tmp_path, text):
    file = loha(tmp_path / "a.safetensors")
    save_file(load_file(file), file, metadata={"lora_adapter_metadata": text, "mine": "kept"})
    extract_adapter(file, tmp_path / "b.safetensors", CompressConfig(rank=2))
    assert "lora_adapter_metadata" not in read_header(tmp_path / "b.safetensors").metadata
    assert read_header(tmp_path / "b.safetensors").metadata["mine"] == "kept"


def test_lora_beside_another_method_is_kept(tmp_path):
    file = kohya(tmp_path / "a.safetensors")
    lora = products(file)
    save_file(load_file(file) | load_file(loha(tmp_path / "loha.safetensors")), file)
    extract_adapter(file, tmp_path / "b.safetensors", CompressConfig(rank=4))
    new = products(tmp_path / "b.safetensors")
    assert new.keys() == lora.keys() | {"x"}
    for name, product in lora.items():
        torch.testing.assert_close(new[name], product, rtol=0, atol=1e-4)


def lycoris_folder(folder, kind, **settings):
    """A LoHa or LoKr adapter of the random Llama, saved by PEFT."""
    torch.manual_seed(4)
    config = getattr(peft, f"{kind}Config")(
        r=2, alpha=3, target_modules=["q_proj", "down_proj"], init_weights=False, **settings
    )
    model = peft.get_peft_model(llama(), config)
    model.save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("LoHa", {}),
        (
            "LoHa",
            {"rank_pattern": {"down_proj": 1}, "alpha_pattern": {"layers.0.self_attn.q_proj": 5}},
        ),
        ("LoKr", {}),
        ("LoKr", {"rank_pattern": {"down_proj": 1}, "alpha_pattern": {"q_proj": 7}}),
        ("LoKr", {"decompose_both": True, "decompose_factor": 4, "task_type": "CAUSAL_LM"}),
    ],
)
def test_a_folder_of_another_method_becomes_the_best_lora_that_peft_loads(tmp_path, kind, settings):
    source = lycoris_folder(tmp_path / "a", kind, **settings)
    old = PeftModel.from_pretrained(llama(), source)
    report = extract_adapter(source, tmp_path / "b", CompressConfig(rank=3, dtype="fp64"))
    layers = {n: m for n, m in old.named_modules() if hasattr(m, "get_delta_weight")}
    changes = {
        n.removeprefix("base_model.model."): m.get_delta_weight("default")
        for n, m in layers.items()
    }
    assert set(report.ranks) == set(changes)
    new = products(tmp_path / "b")
    for name, change in changes.items():
        wanted = best(change.detach().double(), 3)
        assert (new[name] - wanted).norm() < 1e-6 * wanted.norm()
    # The whole of it predicts the same.
    extract_adapter(source, tmp_path / "c", CompressConfig(energy=1.0, layout="padded"))
    lora = PeftModel.from_pretrained(llama(), tmp_path / "c")
    torch.testing.assert_close(logits(lora), logits(old), rtol=0, atol=1e-4)


def test_a_folder_that_peft_would_not_load_is_refused(tmp_path):
    for place, entries, message in (
        ("a", {"r": 3}, "has rank 2, but adapter_config.json says 3"),
        ("b", {"peft_type": "OFT"}, "only LOHA and LOKR can become LoRA"),
        ("c", {"alpha": "x"}, "is not a finite number"),
    ):
        folder = lycoris_folder(tmp_path / place, "LoHa")
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | entries))
        with pytest.raises(PrunedLoRAError, match=message):
            extract_adapter(folder, tmp_path / "out", CompressConfig(rank=2))
    for name, change, message in (
        ("d", lambda t: t.update({f"{STEM}.hada_t1": torch.ones(2, 2, 3, 3)}), "of a convolution"),
        ("e", lambda t: t.update({f"{STEM}.alpha": torch.ones(())}), "looks like a scaling"),
        ("f", lambda t: t.update({f"{STEM}.lora_A.weight": torch.ones(2, 16)}), "like a factor"),
        ("g", lambda t: t.update({f"{STEM}.diff": torch.ones(16, 16)}), "not a tensor of PEFT"),
        ("h", lambda t: t.pop(f"{STEM}.hada_w1_a"), "are not all"),
        ("i", lambda t: t.clear(), "holds no LoHa"),
    ):
        folder = lycoris_folder(tmp_path / name, "LoHa")
        tensors = load_file(folder / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, folder / "adapter_model.safetensors")
        with pytest.raises(PrunedLoRAError, match=message):
            extract_adapter(folder, tmp_path / "out", CompressConfig(rank=2))
        assert not (tmp_path / "out").exists()


def test_compressing_another_method_names_the_command_that_extracts_it(tmp_path):
    folder = lycoris_folder(tmp_path / "a", "LoKr")
    with pytest.raises(UnsupportedAdapterError, match="prunedlora extract"):
        compress_adapter(folder, tmp_path / "b", CompressConfig(rank=2))


@pytest.mark.parametrize("shard_size", ["1GB", "20KB"])
def test_what_tuning_changed_in_a_model_becomes_a_folder_that_peft_loads(tmp_path, shard_size):
    llama().save_pretrained(tmp_path / "base", max_shard_size=shard_size)
    tuned = tuned_folder(tmp_path / "tuned")
    full = max(min(w.shape) for n, w in llama().named_parameters() if "proj" in n)
    report = extract_adapter(
        tuned, tmp_path / "out", CompressConfig(rank=full, dtype="fp64"), tmp_path / "base"
    )
    assert {name.rpartition(".")[2] for name in report.ranks} == {"q_proj", "down_proj"}
    assert "norm" in report.warnings[0]
    model = PeftModel.from_pretrained(llama(), tmp_path / "out").merge_and_unload()
    new = load_file(tuned / "model.safetensors")
    for name, weight in model.named_parameters():
        if "q_proj" in name or "down_proj" in name:
            torch.testing.assert_close(weight, new[name], rtol=0, atol=1e-5)


def test_what_cannot_be_extracted_is_refused(tmp_path):
    config = CompressConfig(rank=2)
    plain = kohya(tmp_path / "a.safetensors")
    incomplete = loha(tmp_path / "incomplete.safetensors")
    tensors = load_file(incomplete)
    save_file({k: t for k, t in tensors.items() if "w2_b" not in k}, incomplete)
    unlike = loha(tmp_path / "unlike.safetensors")
    save_file(tensors | {"x.hada_w1_b": torch.ones(3, 29)}, unlike)
    twice = loha(tmp_path / "twice.safetensors")
    pair = {"x.lora_down.weight": torch.ones(1, 30), "x.lora_up.weight": torch.ones(20, 1)}
    save_file(tensors | pair, twice)
    (tmp_path / "empty").mkdir()
    for source, minus, message in (
        (plain, None, "holds no LoHa"),
        (incomplete, None, "do not fit each other or are not all there"),
        (unlike, None, "do not fit each other"),
        (twice, None, "two ways"),
        (tmp_path / "missing.safetensors", None, "no such folder or file"),
        (plain, tmp_path / "empty", "holds neither"),
        (incomplete, plain, "no weights of linear layers"),
    ):
        out = tmp_path / "new" / ("out" if minus else "out.safetensors")
        with pytest.raises(AdapterFileError, match=message):
            extract_adapter(source, out, config, minus)
        assert not out.exists()
