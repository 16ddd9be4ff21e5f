"""Every layout must load in plain PEFT and give the logits of the reference, patterns or not."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from prunedlora import CompressConfig, compress_adapter, export_adapter, find_lora_modules
from prunedlora.errors import ConfigurationError
from prunedlora.factors import Scaled
from prunedlora.files.adapter_file import open_adapter
from prunedlora.files.layouts import lay_out
from prunedlora.files.readers import readings
from tests.adapters_on_disk import ALL_LINEAR, loaded, logits, saved
from tests.models import llama

PATTERNS = (
    {},
    {
        "rank_pattern": {"q_proj": 3, "layers.1.self_attn.v_proj": 5},
        "alpha_pattern": {"down_proj": 7},
    },
)


def expected_scalings(folder):
    """Scalings by the definition of PEFT's configuration, for the patterns used here (endings of names)."""
    raw = json.loads((folder / "adapter_config.json").read_text())

    def pick(pattern, name, default):
        return next(
            (v for k, v in raw[pattern].items() if name == k or name.endswith("." + k)), default
        )

    def scaling(name):
        rank, alpha = (
            pick("rank_pattern", name, raw["r"]),
            pick("alpha_pattern", name, raw["lora_alpha"]),
        )
        return alpha / (math.sqrt(rank) if raw["use_rslora"] else rank)

    return scaling


@torch.no_grad()
def reference(folder, ranks):
    """The Llama with the dense truncated product added to each weight, in float64 until the last step."""
    model, scaling = llama().eval(), expected_scalings(folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    for name, rank in ranks.items():
        B, A = (tensors[f"base_model.model.{name}.lora_{x}.weight"].double() for x in "BA")
        U, S, Vh = torch.linalg.svd(scaling(name) * B @ A, full_matrices=False)
        rank = min(rank, B.shape[1])
        weight = model.get_submodule(name).weight
        weight.copy_((weight.double() + U[:, :rank] * S[:rank] @ Vh[:rank]).float())
    return model


def without_patterns(folder):
    file = folder / "adapter_config.json"
    raw = json.loads(file.read_text())
    for key in ("rank_pattern", "alpha_pattern"):
        raw.pop(key)
    raw.pop("use_rslora")
    file.write_text(json.dumps(raw))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    r=st.integers(2, 12),
    alpha=st.sampled_from([1, 4, 7.5, 32]),
    rslora=st.booleans(),
    patterns=st.sampled_from(PATTERNS),
    targets=st.sampled_from([["q_proj", "v_proj", "down_proj"], ALL_LINEAR]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    layout=st.sampled_from(["uniform", "ragged", "padded"]),
    data=st.data(),
)
def test_every_layout_gives_the_reference_logits(
    tmp_path_factory, r, alpha, rslora, patterns, targets, dtype, layout, data
):
    tmp = tmp_path_factory.mktemp("layout")
    source = saved(
        tmp / "a",
        r=r,
        lora_alpha=alpha,
        use_rslora=rslora,
        target_modules=targets,
        dtype=dtype,
        **patterns,
    )
    rank = data.draw(st.integers(1, r))
    wish = (
        {"rank": rank}
        if layout == "uniform"
        else data.draw(st.sampled_from([{"energy": 0.8}, {"rank": rank, "scope": "global"}]))
    )
    report = compress_adapter(
        source, tmp / "b", CompressConfig(layout=layout, dtype="fp32", **wish)
    )
    if layout != "ragged":
        without_patterns(tmp / "b")
    want = logits(reference(source, report.ranks))
    model = loaded(tmp / "b")
    torch.testing.assert_close(logits(model), want, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(model.merge_and_unload()), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", ["uniform", "padded", "ragged"])
def test_the_readers_that_the_layout_promises_agree(tmp_path, layout):
    source = saved(tmp_path / "a", use_rslora=True, **PATTERNS[1])
    everyone = {row.reader for row in readings(open_adapter(source))}
    assert {row.reader for row in readings(open_adapter(source)) if row.wrong} == everyone - {
        "PEFT",
        "vLLM",
    }
    wish = {"rank": 2} if layout == "uniform" else {"energy": 0.8}
    compress_adapter(source, tmp_path / "b", CompressConfig(layout=layout, **wish))
    wrong = {row.reader for row in readings(open_adapter(tmp_path / "b")) if row.wrong}
    rank = {"llama.cpp", "Ollama", "TensorRT-LLM"}
    assert wrong == (rank if layout == "ragged" else set())
    refusing = {row.reader for row in readings(open_adapter(tmp_path / "b")) if row.refusal}
    assert ("SGLang" in refusing) == (layout == "ragged")


@pytest.mark.parametrize("layout", ["uniform", "padded", "ragged"])
def test_a_model_in_memory_exports_in_every_layout(lora, tmp_path, layout):
    patterns = {} if layout == "uniform" else {"rank_pattern": {"q_proj": 3}}
    model = lora(use_rslora=True, **patterns).eval()
    want = logits(model)
    export_adapter(model, tmp_path / "a", layout=layout)
    if layout != "ragged":
        without_patterns(tmp_path / "a")
    torch.testing.assert_close(logits(loaded(tmp_path / "a")), want, rtol=0, atol=1e-5)
    assert {m.scaling for m in find_lora_modules(loaded(tmp_path / "a"))} == {1.0}
    torch.testing.assert_close(logits(model), want, rtol=0, atol=1e-6)


def test_uniform_refuses_ranks_that_differ(lora, tmp_path):
    with pytest.raises(ConfigurationError, match="'padded' or 'ragged'"):
        export_adapter(lora(rank_pattern={"q_proj": 3}), tmp_path / "a", layout="uniform")
    assert not (tmp_path / "a").exists()


def test_names_that_end_alike_keep_their_own_ranks(tmp_path):
    """Unanchored patterns would give one module's rank to another whose name ends with it."""
    import peft
    from torch import nn

    def base():
        torch.manual_seed(0)
        return nn.ModuleDict({"x": nn.Linear(6, 6), "axx": nn.ModuleDict({"x": nn.Linear(6, 6)})})

    model = peft.get_peft_model(
        base(), peft.LoraConfig(r=4, target_modules=["x"], rank_pattern={"^x": 2})
    )
    for module in find_lora_modules(model):
        nn.init.normal_(module.B)
    export_adapter(model, tmp_path / "a", layout="ragged")
    again = peft.PeftModel.from_pretrained(base(), str(tmp_path / "a"))
    assert (
        [m.rank for m in find_lora_modules(again)]
        == [m.rank for m in find_lora_modules(model)]
        == [2, 4]
    )


def test_padding_changes_no_product():
    modules = {
        "a": Scaled(torch.randn(5, 2), torch.randn(2, 4), 3.0),
        "b": Scaled(torch.randn(5, 1), torch.randn(1, 4)),
    }
    for name, module in lay_out(modules, "padded", rank=6).items():
        assert module.rank == 6
        old = modules[name]
        torch.testing.assert_close(module.B @ module.A, old.scaling * old.B @ old.A)


def test_other_trained_tensors_are_carried_over(tmp_path):
    source = saved(tmp_path / "a", modules_to_save=["lm_head"])
    compress_adapter(source, tmp_path / "b", CompressConfig(rank=8))
    torch.testing.assert_close(
        logits(loaded(tmp_path / "b")), logits(loaded(source)), rtol=0, atol=1e-5
    )
    before, after = (load_file(x / "adapter_model.safetensors") for x in (source, tmp_path / "b"))
    key = "base_model.model.lm_head.weight"
    assert torch.equal(before[key], after[key])


def test_embeddings_are_lowered_too(tmp_path):
    source = saved(tmp_path / "a")
    tensors = load_file(source / "adapter_model.safetensors")
    torch.manual_seed(4)
    A, B = torch.randn(8, 32), torch.randn(16, 8)
    tensors |= {
        f"base_model.model.model.embed_tokens.lora_embedding_{n}": t
        for n, t in (("A", A), ("B", B))
    }
    save_file(tensors, source / "adapter_model.safetensors", metadata={"format": "pt"})
    raw = json.loads((source / "adapter_config.json").read_text())
    raw["target_modules"].append("embed_tokens")
    (source / "adapter_config.json").write_text(json.dumps(raw))
    compress_adapter(source, tmp_path / "b", CompressConfig(rank=8))
    torch.testing.assert_close(
        logits(loaded(tmp_path / "b")), logits(loaded(source)), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("exclude", [None, ["lm_head"], r".*lm_head"])
def test_a_module_that_adds_nothing_is_kept_or_unwrapped(tmp_path, exclude):
    source = saved(tmp_path / "a", exclude_modules=exclude)
    tensors = load_file(source / "adapter_model.safetensors")
    dead = "model.layers.0.self_attn.q_proj"
    tensors[f"base_model.model.{dead}.lora_B.weight"].zero_()
    save_file(tensors, source / "adapter_model.safetensors", metadata={"format": "pt"})
    want = logits(loaded(source))
    compress_adapter(source, tmp_path / "kept", CompressConfig(rank=8))
    report = compress_adapter(
        source, tmp_path / "out", CompressConfig(rank=8, zero_modules="exclude")
    )
    assert report.excluded == [dead]
    for name, count in (("kept", 6), ("out", 5)):
        model = loaded(tmp_path / name)
        assert len(find_lora_modules(model)) == count
        torch.testing.assert_close(logits(model), want, rtol=0, atol=1e-5)


def test_a_global_budget_may_leave_modules_without_components(tmp_path):
    source = saved(tmp_path / "a")
    tensors = load_file(source / "adapter_model.safetensors")
    weak = "model.layers.1.self_attn.v_proj"
    tensors[f"base_model.model.{weak}.lora_B.weight"].mul_(1e-3)
    save_file(tensors, source / "adapter_model.safetensors", metadata={"format": "pt"})
    kept = compress_adapter(source, tmp_path / "kept", CompressConfig(rank=2, scope="global"))
    out = compress_adapter(
        source, tmp_path / "out", CompressConfig(rank=2, scope="global", zero_modules="exclude")
    )
    assert kept.ranks[weak] == 1
    assert weak in out.excluded
    assert sum(kept.ranks.values()) == sum(out.ranks.values()) == 12
    loaded(tmp_path / "out")
