"""Files of other tools: which are read, and which are refused by name."""

import json
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from prunedlora import CompressConfig, compress_adapter
from prunedlora.errors import AdapterFileError, UnsupportedAdapterError
from prunedlora.files.adapter_file import open_adapter
from tests.adapters_on_disk import best, kohya, loaded, logits, saved


@pytest.mark.parametrize("alpha", [2.0, None])
@pytest.mark.parametrize("layout", ["uniform", "ragged"])
def test_files_of_diffusion_tools(tmp_path, alpha, layout):
    source = kohya(tmp_path / "a.safetensors", alpha=alpha, dtype=torch.float16)
    wish = {"rank": 2} if layout == "uniform" else {"energy": 0.7}
    out = tmp_path / "b.safetensors"
    report = compress_adapter(source, out, CompressConfig(layout=layout, **wish))
    old, new = load_file(source), load_file(out)
    added = (
        {f"{name}.alpha" for name in report.ranks} if len(set(report.ranks.values())) > 1 else set()
    )
    assert new.keys() == old.keys() | added
    for name, rank in report.ranks.items():
        down, up = new[f"{name}.lora_down.weight"], new[f"{name}.lora_up.weight"]
        assert down.shape == (rank, *old[f"{name}.lora_down.weight"].shape[1:])
        if alpha is not None or added:
            assert new[f"{name}.alpha"].item() == rank
            assert new[f"{name}.alpha"].shape == ()
        scale = 1.0 if alpha is None else alpha / 4
        before = old[f"{name}.lora_up.weight"].double().flatten(1) @ old[
            f"{name}.lora_down.weight"
        ].double().flatten(1)
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
        ("lora_unet_attn_to_q.dora_scale", UnsupportedAdapterError),
        ("lora_unet_attn_to_q.lora_up.bias", UnsupportedAdapterError),
        ("lora_unet_conv1.lora_mid.weight", AdapterFileError),
        ("stranger.alpha", AdapterFileError),
        ("lora_unet_attn_to_q.lora_down.alpha", AdapterFileError),
        ("lora_unet_attn_to_q.scale", AdapterFileError),
        ("lora_unet_attn_to_q.lora_up.scale_weight", AdapterFileError),
    ],
)
def test_what_would_change_the_product_is_refused(tmp_path, key, kind):
    tensors = load_file(kohya(tmp_path / "a.safetensors"))
    save_file({**tensors, key: torch.ones(1)}, tmp_path / "c.safetensors")
    with pytest.raises(kind, match=key.split(".")[0]):
        open_adapter(tmp_path / "c.safetensors")


def test_a_file_of_another_method_is_refused_by_name(tmp_path):
    save_file({"x.hada_w1_a": torch.ones(2), "x.alpha": torch.ones(())}, tmp_path / "a.safetensors")
    with pytest.raises(UnsupportedAdapterError, match="LoHa"):
        open_adapter(tmp_path / "a.safetensors")


#: A pair by every spelling: names of A and B, and of the alpha that its readers look for.
NAMES = {
    "peft": ("m.q.lora_A.weight", "m.q.lora_B.weight", "m.q.alpha"),
    "kohya": ("lora_unet_q.lora_down.weight", "lora_unet_q.lora_up.weight", "lora_unet_q.alpha"),
    "single file of peft": (
        "base_model.model.q.lora_A.weight",
        "base_model.model.q.lora_B.weight",
        "base_model.model.q.alpha",
    ),
    "adapter's name": ("m.q.lora_A.default.weight", "m.q.lora_B.default.weight", "m.q.alpha"),
    "mochi": ("m.q.lora_A", "m.q.lora_B", "m.q.alpha"),
    "torchtune": ("m.q.lora_a.weight", "m.q.lora_b.weight", "m.q.alpha"),
    "split": ("m_qkv.lora_down.0.weight", "m_qkv.lora_up.0.weight", "m_qkv.alpha"),
    "diffusers": ("unet.to_k.lora.down.weight", "unet.to_k.lora.up.weight", "unet.to_k.alpha"),
    "processors": (
        "attn1.processor.to_k_lora.down.weight",
        "attn1.processor.to_k_lora.up.weight",
        "attn1.processor.to_k.alpha",
    ),
    "text encoders": (
        "text_encoder.q_proj.lora_linear_layer.down.weight",
        "text_encoder.q_proj.lora_linear_layer.up.weight",
        "text_encoder.q_proj.alpha",
    ),
    "xlabs": (
        "double_blocks.0.processor.qkv_lora1.down.weight",
        "double_blocks.0.processor.qkv_lora1.up.weight",
        "double_blocks.0.processor.qkv_lora1.alpha",
    ),
    "control": ("input_blocks.1.proj.down", "input_blocks.1.proj.up", "input_blocks.1.proj.alpha"),
}


@pytest.mark.parametrize("alpha", [None, 3.0])
@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES.keys())
def test_every_spelling_is_lowered_and_written_back(tmp_path, names, alpha):
    torch.manual_seed(0)
    A, B = torch.randn(6, 10), torch.randn(8, 6)
    tensors = {names[0]: A, names[1]: B}
    if alpha is not None:
        tensors[names[2]] = torch.tensor(alpha)
    save_file(tensors, tmp_path / "a.safetensors")
    compress_adapter(tmp_path / "a.safetensors", tmp_path / "b.safetensors", CompressConfig(rank=2))
    new = load_file(tmp_path / "b.safetensors")
    assert new.keys() == tensors.keys()
    scale = 1.0 if alpha is None else alpha / 6
    assert alpha is None or new[names[2]] == 2
    torch.testing.assert_close(new[names[1]] @ new[names[0]], best(scale * B @ A, 2))


def test_parts_of_one_module_share_an_alpha_and_a_rank(tmp_path):
    torch.manual_seed(0)
    parts = {0: 4, 1: 2, 2: 2}
    tensors = {"m.alpha": torch.tensor(3.0)}
    for part, rank in parts.items():
        tensors[f"m.lora_down.{part}.weight"] = torch.eye(6, 10)
        tensors[f"m.lora_up.{part}.weight"] = torch.diag((torch.arange(6) < rank) + 1e-3)
    save_file(tensors, tmp_path / "a.safetensors")
    report = compress_adapter(
        tmp_path / "a.safetensors", tmp_path / "b.safetensors", CompressConfig(energy=0.99)
    )
    assert report.ranks == {"m.0": 4, "m.1": 2, "m.2": 2}
    new = load_file(tmp_path / "b.safetensors")
    assert {new[f"m.lora_down.{part}.weight"].shape[0] for part in parts} == {4}
    assert new["m.alpha"] == 4


def test_several_adapters_in_one_file_are_refused(tmp_path):
    tensors = {f"m.lora_{f}.{a}.weight": torch.ones(2, 2) for f in "AB" for a in ("x", "y")}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(AdapterFileError, match="two pairs"):
        open_adapter(tmp_path / "a.safetensors")


def test_the_middle_factor_of_a_convolution_is_folded_exactly(tmp_path):
    torch.manual_seed(0)
    down, mid, up = torch.randn(4, 6, 1, 1), torch.randn(4, 4, 3, 3), torch.randn(8, 4, 1, 1)
    tensors = {
        "x.lora_down.weight": down,
        "x.lora_mid.weight": mid,
        "x.lora_up.weight": up,
        "x.alpha": torch.tensor(2.0),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    image = torch.randn(2, 6, 9, 9)
    conv = torch.nn.functional.conv2d
    expected = conv(conv(conv(image, down), mid), up) * 2 / 4
    compress_adapter(tmp_path / "a.safetensors", tmp_path / "b.safetensors", CompressConfig(rank=4))
    new = load_file(tmp_path / "b.safetensors")
    assert new.keys() == tensors.keys() - {"x.lora_mid.weight"}
    got = conv(conv(image, new["x.lora_down.weight"]), new["x.lora_up.weight"])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


OTHERS = (
    "q.diff",
    "q.diff_b",
    "diff_m",
    "norm.w_norm",
    "norm.b_norm",
    "q.reshape_weight",
    "q.set_weight",
    "bundle_emb.token.clip_l",
    "layers.0.attention_norm.weight",
    "other.lokr_w1",
    "other.hada_w1_a",
    "other.alpha",
    "lora_controlnet",
    "block.down",
)


def test_whatever_is_not_a_pair_is_carried_over_and_listed(tmp_path):
    others = {key: torch.randn(3) for key in OTHERS} | {"other.alpha": torch.tensor(1.0)}
    tensors = load_file(kohya(tmp_path / "a.safetensors")) | others
    save_file(tensors, tmp_path / "a.safetensors")
    out = tmp_path / "b.safetensors"
    report = compress_adapter(tmp_path / "a.safetensors", out, CompressConfig(rank=2))
    new = load_file(out)
    assert all(torch.equal(new[key], tensor) for key, tensor in others.items())
    assert report.carried == sorted(OTHERS)


@pytest.mark.parametrize(
    "ends",
    [
        ("lora_embedding_A.default", "lora_embedding_B.default"),
        ("lora_up.weight.0", "lora_down.weight.0"),
        ("lora_a", "lora_b"),
    ],
)
def test_factors_in_an_unknown_spelling_are_not_carried_over(tmp_path, ends):
    more = {f"other.{end}": torch.randn(3, 3) for end in ends}
    save_file(load_file(kohya(tmp_path / "a.safetensors")) | more, tmp_path / "a.safetensors")
    with pytest.raises(AdapterFileError, match="looks like a factor"):
        open_adapter(tmp_path / "a.safetensors")


def test_a_peft_folder_with_the_adapters_name_in_its_keys_gets_those_that_peft_reads(tmp_path):
    source = saved(tmp_path / "a")
    file = source / "adapter_model.safetensors"
    # Copies: some versions of safetensors leave tensors in the file, which is written anew below.
    tensors = {key: t.clone() for key, t in load_file(file).items()}
    live = {re.sub(r"(lora_[AB])", r"\1.default", key): t for key, t in tensors.items()}
    save_file(live, file)
    compress_adapter(source, tmp_path / "b", CompressConfig(rank=8, dtype="fp32"))
    save_file(tensors, file)
    torch.testing.assert_close(logits(loaded(tmp_path / "b")), logits(loaded(source)))
