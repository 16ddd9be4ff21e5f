"""Files of other tools: which are read, and which are refused by name."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from prunedlora import CompressConfig, compress_adapter
from prunedlora.errors import AdapterFileError, UnsupportedAdapterError
from prunedlora.files.adapter_file import open_adapter
from tests.adapters_on_disk import best, kohya


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
