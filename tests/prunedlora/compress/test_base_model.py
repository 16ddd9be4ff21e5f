import json

import peft
import pytest
import torch
import transformers

from prunedlora import CompressConfig, compress_adapter, verify_adapter
from prunedlora.errors import ConfigurationError
from tests.adapters_on_disk import base_folder, configured, examples, saved
from tests.models import llama


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
                source,
                tmp_path / "b",
                CompressConfig(rank=2, base=str(other), data=data, device="cpu", samples=8),
            )
        assert not (tmp_path / "b").exists()


BERT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
TASKS = {
    "SEQ_CLS": ("BertForSequenceClassification", {"num_labels": 5}),
    "TOKEN_CLS": ("BertForTokenClassification", {"num_labels": 5}),
    "QUESTION_ANS": ("BertForQuestionAnswering", {}),
    "FEATURE_EXTRACTION": ("BertModel", {}),
    "SEQ_2_SEQ_LM": ("T5ForConditionalGeneration", {}),
    None: ("BertForMaskedLM", {}),  # PEFT then writes down the class itself
}


def trained_for(task, folder):
    """A base model and an adapter for a task, in folders."""
    name, settings = TASKS[task]
    torch.manual_seed(0)
    if task == "SEQ_2_SEQ_LM":
        config = transformers.T5Config(
            vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4
        )
        config.decoder_start_token_id = 0
        model, target = transformers.T5ForConditionalGeneration(config), "q"
    else:
        model = getattr(transformers, name)(transformers.BertConfig(**BERT, **settings))
        target = "query"
    plain = model.base_model if task and task.endswith("_CLS") else model
    plain.save_pretrained(folder / "base")  # without the head, which the adapter brings along
    tokenizer = base_folder(folder / "letters")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "base" / file).write_bytes((tokenizer / file).read_bytes())
    adapter = peft.get_peft_model(
        model,
        peft.LoraConfig(r=4, target_modules=[target], task_type=task, init_lora_weights=False),
    )
    adapter.save_pretrained(folder / "a")
    return folder / "a", str(folder / "base")


@pytest.mark.parametrize("task", TASKS)
def test_an_adapter_is_verified_in_the_class_that_it_was_trained_for(tmp_path, task):
    source, base = trained_for(task, tmp_path)
    found = verify_adapter(source, base, device="cpu")
    assert {check.name for check in found.checks} >= {"loaded weights", "effect"}
    assert found.passed


@pytest.mark.parametrize("task", TASKS)
def test_losses_of_other_classes_are_refused_before_anything_is_loaded(tmp_path, task):
    source, base = trained_for(task, tmp_path)
    config = CompressConfig(rank=2, base=base, data="nowhere.jsonl", device="cpu")
    with pytest.raises(ConfigurationError, match="causal language models only"):
        compress_adapter(source, tmp_path / "b", config)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "entries",
    [
        {"task_type": "IMAGE_CLS"},
        {"auto_mapping": {"base_model_class": "Net", "parent_library": "__main__"}},
        {"auto_mapping": {"base_model_class": "NoSuch", "parent_library": "transformers.models"}},
    ],
)
def test_an_adapter_of_a_class_that_is_not_known_is_refused(tmp_path, entries):
    base = str(base_folder(tmp_path / "base"))
    source = configured(tmp_path / "a", **{"task_type": None, **entries})
    with pytest.raises(ConfigurationError, match=r"task_type|trained for"):
        verify_adapter(source, base, device="cpu")


def test_a_base_model_gets_the_embeddings_that_the_adapter_brings(tmp_path):
    base = str(base_folder(tmp_path / "base"))
    model = llama()
    rows = model.get_input_embeddings().weight.shape[0] + 6
    model.resize_token_embeddings(rows)
    settings = peft.LoraConfig(
        r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False
    )
    adapter = peft.get_peft_model(model, settings)
    adapter.save_pretrained(tmp_path / "a", save_embedding_layers=True)
    assert verify_adapter(tmp_path / "a", base, device="cpu").passed
    data = examples(tmp_path / "data.jsonl")
    config = CompressConfig(rank=2, base=base, data=data, device="cpu", samples=8)
    compress_adapter(tmp_path / "a", tmp_path / "b", config)
    assert verify_adapter(tmp_path / "b", base, device="cpu").passed
