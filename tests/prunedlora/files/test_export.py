import json
import subprocess
import sys

import peft
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from prunedlora import (
    CompressConfig,
    LoraRankPruner,
    PruneConfig,
    compress_adapter,
    export_adapter,
    find_lora_modules,
    reduce_adapter,
    truncate_adapter,
)
from prunedlora.errors import ConfigurationError, OutputError, UnsupportedAdapterError
from tests.models import ids, llama, step, trainable
from tests.paths import ROOT

NEW_PROCESS = """
import sys, torch, peft
from safetensors.torch import load_file
sys.path.insert(0, sys.argv[1])
from tests.models import llama
probe = load_file(sys.argv[2])
model = peft.PeftModel.from_pretrained(llama(), sys.argv[3]).eval()
with torch.no_grad():
    print((model(input_ids=probe["ids"]).logits - probe["logits"]).abs().max().item())
"""


def pruned(model, pruners=None):
    optimizer = torch.optim.AdamW(trainable(model), lr=1e-2)
    config = PruneConfig(
        target_rank=2, criterion="prunedlora2025", interval=1, per_event=2, warmup_steps=2
    )
    with LoraRankPruner(model, optimizer, config, total_steps=10) as pruner:
        for _ in range(10):
            step(model, optimizer)
    if pruners is not None:
        pruners.append(pruner)
    return model.eval()


def test_plain_peft_in_a_new_process_gives_the_same_logits(lora, tmp_path):
    model = pruned(lora(zero_B=True))
    folder = export_adapter(model, tmp_path / "out" / "adapter")
    tokens = ids()
    save_file(
        {"ids": tokens, "logits": model(input_ids=tokens).logits.detach()}, tmp_path / "probe"
    )
    command = [sys.executable, "-c", NEW_PROCESS, str(ROOT), str(tmp_path / "probe"), str(folder)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(out.stdout) <= 1e-5


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"lora_alpha": 7},
        {"alpha_pattern": {"q_proj": 3}, "rank_pattern": {"layers.1.self_attn.v_proj": 5}},
    ],
)
def test_ranks_and_scalings_survive_export_and_loading(lora, tmp_path, settings):
    model = pruned(lora(**settings))
    export_adapter(model, tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(llama(), tmp_path / "adapter").eval()
    tokens = ids()
    torch.testing.assert_close(
        again(input_ids=tokens).logits, model(input_ids=tokens).logits, rtol=0, atol=1e-5
    )
    merged = again.merge_and_unload()
    torch.testing.assert_close(
        merged(input_ids=tokens).logits, model(input_ids=tokens).logits, rtol=0, atol=1e-5
    )


def test_every_tensor_has_the_target_rank_and_the_file_shrinks_in_proportion(lora, tmp_path):
    whole, small = lora(), pruned(lora())
    sizes = []
    for name, model, rank in (("whole", whole, 8), ("small", small, 2)):
        file = export_adapter(model, tmp_path / name) / "adapter_model.safetensors"
        tensors = load_file(file)
        assert {t.shape[0] if "lora_A" in k else t.shape[1] for k, t in tensors.items()} == {rank}
        sizes.append(sum(t.numel() * t.element_size() for t in tensors.values()))
    assert sizes[1] / sizes[0] == 2 / 8
    config = json.loads((tmp_path / "small" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (2, 3, {})


def test_an_injected_model_exports_the_file_of_a_peft_model(lora, tmp_path):
    settings = peft.LoraConfig(r=4, target_modules=["q_proj"])
    torch.manual_seed(2)
    injected = peft.inject_adapter_in_model(settings, llama())
    folder = export_adapter(injected, tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(llama(), folder)
    keys = set(load_file(folder / "adapter_model.safetensors"))
    again.save_pretrained(tmp_path / "by_peft")
    assert keys == set(load_file(tmp_path / "by_peft" / "adapter_model.safetensors"))
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"


def test_an_existing_folder_is_refused_and_untouched(lora, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "mine").write_text("keep")
    with pytest.raises(OutputError, match="exists already"):
        export_adapter(lora(), tmp_path / "adapter")
    assert [p.name for p in tmp_path.rglob("*")] == ["adapter", "mine"]


def test_a_failed_write_leaves_nothing(lora, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("prunedlora.files.writing.save_file", full)
    with pytest.raises(OutputError, match="No space left"):
        export_adapter(lora(), tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_differs_from_memory_is_an_error_and_is_not_kept(lora, tmp_path, monkeypatch):
    def corrupt(tensors, file, metadata):
        save_file({k: v + 1e-7 for k, v in tensors.items()}, file, metadata)

    monkeypatch.setattr("prunedlora.files.writing.save_file", corrupt)
    with pytest.raises(OutputError, match="differs from memory"):
        export_adapter(lora(), tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_truncation_after_training_exports_at_the_new_rank(lora, tmp_path):
    model = lora()
    truncate_adapter(model, 3)
    export_adapter(model, tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(llama(), tmp_path / "adapter")
    tokens = ids()
    torch.testing.assert_close(
        again(input_ids=tokens).logits, model(input_ids=tokens).logits, rtol=0, atol=1e-5
    )


def test_embeddings_that_were_resized_are_saved_as_peft_saves_them(tmp_path):
    llama().save_pretrained(tmp_path / "base")

    def base():
        model = type(llama()).from_pretrained(tmp_path / "base")
        model.resize_token_embeddings(40)
        return model

    model = peft.get_peft_model(base(), peft.LoraConfig(r=4, target_modules=["q_proj"]))
    with torch.no_grad():
        model.get_input_embeddings().weight[30:] = 1.0
    export_adapter(model, tmp_path / "a")
    with pytest.warns(UserWarning, match="resized"):
        model.save_pretrained(tmp_path / "by_peft")
    ours, theirs = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("a", "by_peft")
    )
    assert ours.keys() == theirs.keys()
    assert any("embed_tokens" in key for key in ours)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    again = peft.PeftModel.from_pretrained(base(), tmp_path / "a").eval()
    tokens = torch.arange(28, 38).unsqueeze(0)
    torch.testing.assert_close(
        again(input_ids=tokens).logits, model.eval()(input_ids=tokens).logits
    )


def test_saved_modules_are_kept(lora, tmp_path):
    model = lora(modules_to_save=["lm_head"])
    export_adapter(model, tmp_path / "a")
    model.save_pretrained(tmp_path / "by_peft")
    keys = [load_file(tmp_path / x / "adapter_model.safetensors").keys() for x in ("a", "by_peft")]
    assert keys[0] == keys[1]
    assert any("lm_head" in key for key in keys[0])


@pytest.mark.parametrize("whole", [True, False])
def test_a_compiled_model_is_exported_under_its_own_names(lora, tmp_path, whole):
    model = lora(rank_pattern={"q_proj": 3}).eval()
    if whole:
        compiled = torch.compile(model, backend="eager")
    else:
        compiled = model
        layers = model.base_model.model.model.layers
        layers[0] = torch.compile(layers[0], backend="eager")
    tokens = ids()
    expected = compiled(input_ids=tokens).logits
    export_adapter(compiled, tmp_path / "a")
    again = peft.PeftModel.from_pretrained(llama(), tmp_path / "a").eval()
    torch.testing.assert_close(again(input_ids=tokens).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("init", ["pissa", "olora", "pissa_niter_4", "corda", "lora_ga", "loftq"])
def test_an_adapter_that_changed_the_base_model_is_refused_before_anything_changes(
    lora, tmp_path, init
):
    model = lora()
    model.peft_config["default"].init_lora_weights = init
    before = {name: p.clone() for name, p in model.state_dict().items()}
    for call in (
        lambda: export_adapter(model, tmp_path / "a"),
        lambda: truncate_adapter(model, 2),
        lambda: reduce_adapter(model, 2),
        lambda: LoraRankPruner(
            model, torch.optim.SGD(trainable(model)), PruneConfig(target_rank=2), total_steps=50
        ),
    ):
        remedy = "use it as it is" if init == "loftq" else "prunedlora compress --initial"
        with pytest.raises(UnsupportedAdapterError, match=remedy):
            call()
    assert not (tmp_path / "a").exists()
    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())


def test_the_card_says_what_the_adapter_is_and_how_it_is_loaded(lora, tmp_path):
    model = lora(lora_alpha=16)
    folder = export_adapter(model, tmp_path / "mine")
    card = (folder / "README.md").read_text()
    assert "\n# mine\n" in card
    count = len(find_lora_modules(model))
    assert f"- rank: 8, in {count} modules\n- scaling of what the factors add: 2\n" in card
    assert "PeftModel.from_pretrained(base_model" in card
    assert not (folder / "pruning_report.json").exists()


@pytest.mark.parametrize("record", [{}, {"events": []}])
def test_a_record_of_something_else_is_refused_before_anything_is_written(lora, tmp_path, record):
    with pytest.raises(ConfigurationError, match=r"LoraRankPruner.record\(\)"):
        export_adapter(lora(), tmp_path / "out", record=record)
    assert list(tmp_path.iterdir()) == []


def test_the_record_of_pruning_goes_beside_the_adapter_and_into_its_card(lora, tmp_path):
    pruners = []
    model = pruned(lora(zero_B=True), pruners)
    folder = export_adapter(model, tmp_path / "out", record=pruners[0].record())
    record = json.loads((folder / "pruning_report.json").read_text())
    assert record["config"]["criterion"] == "prunedlora2025"
    assert set(record["ranks_before"].values()) == {8}
    assert set(record["ranks"].values()) == {2}
    assert [event["step"] for event in record["events"]] == [3, 4, 5]
    assert {count for event in record["events"] for count in event["removed"].values()} == {2}
    # Names as the file has them, not as the wrapper around the model does.
    stored = load_file(folder / "adapter_model.safetensors")
    assert {f"base_model.model.{name}.lora_A.weight" for name in record["ranks"]} <= set(stored)
    card = (folder / "README.md").read_text()
    assert "- rank: 2, in" in card
    assert "- rank before: 8\n- criterion: `prunedlora2025`, in 3 events over 10 steps\n" in card
    # Compressed further, what was done before is kept beside what was done then, and the card names both.
    compress_adapter(folder, tmp_path / "less", CompressConfig(rank=1))
    assert json.loads((tmp_path / "less" / "pruning_report.before.json").read_text()) == record
    assert json.loads((tmp_path / "less" / "pruning_report.json").read_text()) != record
    card = (tmp_path / "less" / "README.md").read_text()
    assert (
        "Pruned in training, by prunedlora; everything else is in `pruning_report.before.json`"
        in card
    )
    assert "The rank was lowered by prunedlora" in card
