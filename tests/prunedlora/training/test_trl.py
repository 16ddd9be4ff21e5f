"""TRL's trainers are Trainers: the callback prunes in them as it does in those of transformers."""

import warnings

import peft
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from prunedlora import PruneConfig, export_adapter, find_lora_modules
from prunedlora.training.callback import PruningCallback
from tests.models import ids, llama

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TRL marks some of what it imports as experimental
    trl = pytest.importorskip("trl")
    Dataset = pytest.importorskip("datasets").Dataset

WORDS = [f"w{i}" for i in range(28)]
CONFIG = PruneConfig(
    target_rank=4, criterion="prunedlora2025", interval=1, per_event=2, warmup_steps=1
)
SHARED = {
    "max_steps": 4,
    "per_device_train_batch_size": 2,
    "save_strategy": "no",
    "report_to": [],
    "use_cpu": True,
    "learning_rate": 1e-3,
    "disable_tqdm": True,
}


@pytest.fixture
def tokenizer():
    """One token a word; as many as the Llama of the tests knows."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def text(start):
    return " ".join(WORDS[(start + i) % len(WORDS)] for i in range(6))


def supervised(model, tokenizer, folder, callback):
    data = Dataset.from_list([{"text": text(i)} for i in range(16)])
    args = trl.SFTConfig(output_dir=folder, max_length=16, bf16=False, **SHARED)
    return trl.SFTTrainer(
        model=model, args=args, train_dataset=data, processing_class=tokenizer, callbacks=[callback]
    )


def preferences(model, tokenizer, folder, callback):
    data = Dataset.from_list(
        [{"prompt": text(i), "chosen": text(i + 6), "rejected": text(i + 9)} for i in range(16)]
    )
    args = trl.DPOConfig(output_dir=folder, max_length=24, bf16=False, **SHARED)
    return trl.DPOTrainer(
        model=model, args=args, train_dataset=data, processing_class=tokenizer, callbacks=[callback]
    )


def rewards(model, tokenizer, folder, callback):
    data = Dataset.from_list([{"prompt": text(i)} for i in range(16)])
    args = trl.GRPOConfig(
        output_dir=folder, num_generations=2, max_completion_length=4, bf16=False, **SHARED
    )
    return trl.GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [float(i % 2) for i in range(len(completions))],
        args=args,
        train_dataset=data,
        processing_class=tokenizer,
        callbacks=[callback],
    )


@pytest.mark.supports("AdamW", "none", "TRL: SFT, DPO, GRPO", "float32")
@pytest.mark.parametrize("make", [supervised, preferences, rewards])
@pytest.mark.filterwarnings("ignore")  # of TRL, on what it will change
def test_the_adapter_is_pruned_and_opens_with_plain_peft(lora, tokenizer, tmp_path, make):
    callback = PruningCallback(CONFIG)
    model = lora(zero_B=True)
    trainer = make(model, tokenizer, str(tmp_path / "run"), callback)
    trainer.train()
    assert [event.step for event in callback.pruner.events] == [2, 3]
    trained = trainer.accelerator.unwrap_model(trainer.model)
    assert {module.rank for module in find_lora_modules(trained)} == {4}
    folder = export_adapter(trained, tmp_path / "adapter", record=callback.pruner.record())
    again = peft.PeftModel.from_pretrained(llama(), folder).eval()
    tokens = ids()
    with torch.no_grad():
        ours, theirs = (m.eval()(input_ids=tokens).logits for m in (trained, again))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert any(module.B.abs().max() > 0 for module in find_lora_modules(again))
