"""Where a scaling stands: one that is read is used and written back, one that is not is refused."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from prunedlora import CompressConfig, compress_adapter
from prunedlora.errors import AdapterFileError, UnsupportedAdapterError
from prunedlora.files.adapter_file import open_adapter
from tests.adapters_on_disk import best, kohya, products, saved

Q, K = "transformer.blocks.0.to_q", "transformer.blocks.1.to_k"
T = "text_encoder.layers.0.q_proj"


def pipeline(file, **entries):
    """A file of diffusers with two ranks, and the configuration in its header."""
    torch.manual_seed(0)
    tensors = {}
    for name, rank in ((Q, 8), (K, 4), (T, 6)):
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, 12)
        tensors[f"{name}.lora_B.weight"] = torch.randn(10, rank)
    transformer = {"r": 8, "lora_alpha": 16, "rank_pattern": {"to_k": 4}, "use_rslora": False}
    transformer |= {"alpha_pattern": {"to_k": 1}, "target_modules": ["to_q", "to_k"], **entries}
    text = {"r": 6, "lora_alpha": 6, "use_rslora": True}
    raw = {f"transformer.{k}": v for k, v in transformer.items()}
    raw |= {f"text_encoder.{k}": v for k, v in text.items()}
    save_file(tensors, file, {"lora_adapter_metadata": json.dumps(raw)})
    return file


def metadata(file):
    with safe_open(file, "pt") as opened:
        return opened.metadata()


@pytest.mark.parametrize("wish", [{"rank": 3}, {"energy": 0.8}, {"rank": 5, "layout": "padded"}])
def test_scalings_that_diffusers_keeps_in_the_header_are_used_and_rewritten(tmp_path, wish):
    source, out = pipeline(tmp_path / "a.safetensors"), tmp_path / "b.safetensors"
    scalings = {module.name: module.scaling for module in open_adapter(source).modules}
    assert scalings == {Q: 2.0, K: 0.25, T: pytest.approx(6**0.5)}
    report = compress_adapter(source, out, CompressConfig(**wish))
    assert {m.name: m.scaling for m in open_adapter(out).modules} == dict.fromkeys(scalings, 1.0)
    for name, product in products(out).items():
        expected = best(products(source)[name], report.ranks[name])
        torch.testing.assert_close(product, expected, rtol=0, atol=1e-4)
    raw = json.loads(metadata(out)["lora_adapter_metadata"])
    assert raw["transformer.target_modules"] == ["to_q", "to_k"]
    assert raw["text_encoder.r"] == raw["text_encoder.lora_alpha"]
    assert raw["text_encoder.use_rslora"] is False
    # diffusers refuses alpha tensors beside it.
    assert not any("alpha" in key for key in load_file(out))


@pytest.mark.parametrize(
    ("entries", "kind"),
    [
        ({"use_dora": True}, UnsupportedAdapterError),
        ({"init_lora_weights": "pissa"}, UnsupportedAdapterError),
        ({"r": 5}, AdapterFileError),
        ({"lora_alpha": "x"}, AdapterFileError),
    ],
)
def test_a_header_that_does_not_fit_or_is_of_a_variant_is_refused(tmp_path, entries, kind):
    with pytest.raises(kind, match="lora_adapter_metadata"):
        open_adapter(pipeline(tmp_path / "a.safetensors", **entries))


def test_a_header_of_other_modules_is_refused(tmp_path):
    tensors = {"x.y.lora_A.weight": torch.ones(2, 3), "x.y.lora_B.weight": torch.ones(3, 2)}
    raw = {"unet.r": 2, "unet.lora_alpha": 8, "unet.alpha_pattern": {"y": 4}}
    save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(raw)})
    with pytest.raises(AdapterFileError, match="other names"):
        open_adapter(tmp_path / "a.safetensors")


def test_an_alpha_tensor_that_contradicts_the_header_is_refused(tmp_path):
    file = pipeline(tmp_path / "a.safetensors")
    header = metadata(file)
    tensors = load_file(file) | {f"{Q}.alpha": torch.tensor(16.0)}
    save_file(tensors, file, header)
    assert {m.name: m.scaling for m in open_adapter(file).modules}[Q] == 2.0
    save_file(tensors | {f"{Q}.alpha": torch.tensor(8.0)}, file, header)
    with pytest.raises(AdapterFileError, match="by its alpha tensor and"):
        open_adapter(file)


@pytest.mark.parametrize(
    "header",
    [
        {"lora_alpha": "8", "rank": "4"},
        {"network_alpha": "2"},
        {"peft_config": json.dumps({"r": 4, "lora_alpha": 8})},
        {"config": json.dumps({"transformer.r": 4, "transformer.lora_alpha": 8})},
    ],
)
def test_a_scaling_in_the_header_that_no_reader_looks_for_is_refused(tmp_path, header):
    file = tmp_path / "a.safetensors"
    tensors = load_file(kohya(file, alpha=None))
    save_file(tensors, file, header)
    with pytest.raises(AdapterFileError, match="write alpha tensors"):
        open_adapter(file)
    save_file(load_file(kohya(file, alpha=8.0)), file, header)  # the tensors say it
    assert open_adapter(file).modules[0].scaling == 2.0


def test_a_remark_of_sd_scripts_is_not_a_scaling_but_is_mentioned(tmp_path):
    file = tmp_path / "a.safetensors"
    tensors = load_file(kohya(file, alpha=None))
    save_file(tensors, file, {"ss_network_dim": "4", "ss_network_alpha": "1"})
    report = compress_adapter(file, tmp_path / "b.safetensors", CompressConfig(rank=2))
    assert "no alpha tensors" in report.warnings[0]


def test_an_alpha_of_zero_means_two_things(tmp_path):
    with pytest.raises(AdapterFileError, match="ComfyUI takes as 0"):
        open_adapter(kohya(tmp_path / "a.safetensors", alpha=0.0))


def test_a_configuration_beside_a_file_of_a_diffusion_tool_must_not_contradict_it(tmp_path):
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    with pytest.raises(AdapterFileError, match="beside it"):
        open_adapter(kohya(tmp_path / "a.safetensors", alpha=None))
    config.write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4}))
    assert open_adapter(tmp_path / "a.safetensors").config is None


def test_a_folder_whose_names_peft_would_not_find_is_refused(tmp_path):
    file = saved(tmp_path / "a") / "adapter_model.safetensors"
    tensors = {k.removeprefix("base_model.model."): t for k, t in load_file(file).items()}
    save_file(tensors, file)
    with pytest.raises(AdapterFileError, match="do not start with"):
        open_adapter(tmp_path / "a")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rank", [257, 301])
def test_an_alpha_that_the_dtype_cannot_hold_is_written_in_float32(tmp_path, dtype, rank):
    file = kohya(tmp_path / "a.safetensors", rank=2, dtype=dtype)
    torch.manual_seed(0)
    tensors = {
        "x.lora_down.weight": torch.randn(320, 330).to(dtype),
        "x.lora_up.weight": torch.randn(340, 320).to(dtype),
        "x.alpha": torch.tensor([320.0]).to(dtype),
    }
    save_file(tensors, file)
    compress_adapter(file, tmp_path / "b.safetensors", CompressConfig(rank=rank))
    alpha = load_file(tmp_path / "b.safetensors")["x.alpha"]
    assert alpha.item() == rank
    assert alpha.shape == (1,)


@pytest.mark.parametrize("size", [1e80, 1e-90, 1e200])
def test_numbers_whose_squares_leave_float64_are_refused(tmp_path, size):
    torch.manual_seed(0)
    pair = {f"x.lora_{f}.weight": torch.randn(4, 4).double() * size for f in ("down", "up")}
    save_file(pair, tmp_path / "a.safetensors")
    with pytest.raises(ArithmeticError, match="out of the range"):
        compress_adapter(
            tmp_path / "a.safetensors", tmp_path / "b.safetensors", CompressConfig(rank=1)
        )
    assert not (tmp_path / "b.safetensors").exists()
