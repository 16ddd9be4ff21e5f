"""What training added to adapters that took their start from the base model, against PEFT itself."""

import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from prunedlora import CompressConfig, compress_adapter, find_lora_modules
from prunedlora.cli.entry import main
from prunedlora.errors import (
    AdapterFileError,
    ConfigurationError,
    OutputError,
    UnsupportedAdapterError,
)
from prunedlora.files.adapter_file import open_adapter
from tests.adapters_on_disk import best, configured, kohya, loaded, logits, products, saved
from tests.models import llama


def trained(place, init, **settings):
    """An adapter of that initialisation, saved before and after a change of its factors.

    Returns:
        The trained one, the initial one, and the model.
    """
    settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], **settings}
    config = peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=init, **settings)
    model = peft.get_peft_model(llama(), config)
    model.peft_config["default"].init_lora_weights = True  # as PEFT's documents say
    model.save_pretrained(place / "initial")
    generator = torch.Generator().manual_seed(2)
    for module in find_lora_modules(model):
        for p in (module.B, module.A):
            p.data += 0.1 * torch.randn(p.shape, generator=generator)
    model.peft_config["default"].init_lora_weights = init
    model.save_pretrained(place / "trained")
    return place / "trained", place / "initial", model.eval()


@pytest.mark.filterwarnings("ignore:Using Rank-Stabilized LoRA")
@pytest.mark.parametrize(
    ("init", "settings"),
    [
        ("pissa", {}),
        ("pissa_niter_4", {"use_rslora": True}),
        ("olora", {}),
        (
            "pissa",
            {"use_rslora": True, "rank_pattern": {"down_proj": 2}, "alpha_pattern": {"q_proj": 3}},
        ),
    ],
)
def test_twice_the_rank_predicts_what_the_trained_model_does(tmp_path, init, settings):
    adapter, initial, model = trained(tmp_path, init, **settings)
    out = tmp_path / "out"
    config = CompressConfig(rank=8, layout="ragged", dtype="fp64")
    report = compress_adapter(adapter, out, config, initial=initial)
    assert report.relative_error < 1e-12
    assert report.adapter == str(adapter)
    assert report.bytes_before == (adapter / "adapter_model.safetensors").stat().st_size
    torch.testing.assert_close(logits(loaded(out)), logits(model), rtol=0, atol=1e-4)
    assert (logits(llama().eval()) - logits(model)).abs().max() > 0.01
    assert json.loads((out / "adapter_config.json").read_text())["init_lora_weights"] is True


@pytest.mark.filterwarnings("ignore:PiSSA changes the base weights")
def test_a_lower_rank_is_the_best_of_pefts_own_conversion(tmp_path):
    adapter, initial, model = trained(tmp_path, "pissa")
    model.save_pretrained(tmp_path / "peft", path_initial_model_for_weight_conversion=str(initial))
    wanted = products(tmp_path / "peft")
    compress_adapter(
        adapter, tmp_path / "out", CompressConfig(rank=2, dtype="fp64"), initial=initial
    )
    new = products(tmp_path / "out")
    assert new.keys() == wanted.keys()
    for name, product in new.items():
        close = best(wanted[name], 2)
        assert (product - close).norm() < 1e-5 * close.norm()


def test_files_alone_and_what_they_carry(tmp_path):
    adapter, initial = kohya(tmp_path / "a.safetensors"), kohya(tmp_path / "b.safetensors")
    tensors = load_file(initial)
    starts = {k: t.flip(0) if "down" in k else t for k, t in tensors.items()}
    save_file({**starts, "norm.w_norm": torch.zeros(3)}, initial)
    save_file({**tensors, "norm.w_norm": torch.ones(3)}, adapter)
    out = tmp_path / "c.safetensors"
    compress_adapter(adapter, out, CompressConfig(rank=8, dtype="fp64"), initial=initial)
    for name, product in products(out).items():
        wanted = products(adapter)[name] - products(initial)[name]
        torch.testing.assert_close(product, wanted, rtol=0, atol=1e-12)
    assert torch.equal(load_file(out)["norm.w_norm"], torch.ones(3))


@pytest.mark.parametrize("init", ["corda", "lora_ga", "PiSSA"])
def test_names_of_all_such_initialisations_are_known(tmp_path, init):
    adapter = configured(tmp_path / "a", init_lora_weights=init, corda_config={"x": 1})
    initial = saved(tmp_path / "b", seed=7)
    compress_adapter(adapter, tmp_path / "c", CompressConfig(rank=2), initial=initial)
    written = json.loads((tmp_path / "c" / "adapter_config.json").read_text())
    assert "corda_config" not in written
    with pytest.raises(UnsupportedAdapterError, match="compress --initial"):
        compress_adapter(adapter, tmp_path / "d", CompressConfig(rank=2))


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    adapter = configured(tmp_path / "a", init_lora_weights="pissa")
    config = CompressConfig(rank=2)
    data = CompressConfig(rank=2, base="x", data="y.jsonl")
    loftq = configured(tmp_path / "loftq", init_lora_weights="loftq")
    gaussian = configured(tmp_path / "gaussian", init_lora_weights="gaussian")
    alone = kohya(tmp_path / "x.safetensors")
    for source, initial, settings, error, message in (
        (adapter, adapter, config, ConfigurationError, "is the adapter itself"),
        (adapter, saved(tmp_path / "s", lora_alpha=3), config, ConfigurationError, "one scaling"),
        (adapter, saved(tmp_path / "m", target_modules=["q_proj"]), config, ConfigurationError, "is not the same"),
        (saved(tmp_path / "n", target_modules=["q_proj"]), adapter, config, ConfigurationError, "only"),
        (adapter, alone, config, ConfigurationError, "one format"),
        (loftq, adapter, config, UnsupportedAdapterError, "loftq"),
        (gaussian, adapter, config, UnsupportedAdapterError, "leave the initial adapter out"),
        (adapter, saved(tmp_path / "d"), data, ConfigurationError, "compress the result with data"),
        (adapter, tmp_path / "none", config, AdapterFileError, "no such folder"),
        (adapter, saved(tmp_path / "f"), CompressConfig(rank=17), ConfigurationError, "above 16"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            compress_adapter(source, tmp_path / "out", settings, initial=initial)
        assert not (tmp_path / "out").exists()


def test_the_initial_adapter_is_never_written_into(tmp_path):
    adapter, initial, _ = trained(tmp_path, "pissa")
    with pytest.raises(OutputError, match="own folder"):
        compress_adapter(adapter, initial / "x", CompressConfig(rank=2), initial=initial)


def status(arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return stopped.value.code


def test_the_command_takes_an_initial_adapter(tmp_path, capsys):
    adapter, initial, _ = trained(tmp_path, "pissa")
    arguments = ["compress", str(adapter), str(tmp_path / "b"), "--rank", "4"]
    assert status([*arguments, "--initial", str(initial)]) == 0
    assert open_adapter(tmp_path / "b").modules[0].rank == 4
    several = ["compress", str(adapter), str(initial), str(tmp_path / "c"), "--rank", "2"]
    assert status([*several, "--initial", str(initial)]) == 2
    assert "one adapter" in capsys.readouterr().err
