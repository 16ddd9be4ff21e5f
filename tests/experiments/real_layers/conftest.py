"""Tiny random models whose adapters are random too, measured as trained ones are."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from experiments.finetuning.models import load_base
from experiments.real_layers.measured_model import measure
from experiments.real_layers.settings import BERT, BERT_HEADS, LLAMA, LLAMA_HEADS, Settings
from experiments.settings.jobs import RunConfig
from prunedlora import find_lora_modules

SETTINGS = {
    "tiny": Settings(
        run=RunConfig(model="tiny", task="arithmetic", batch_size=4),
        depths=(0, 1),
        kinds=LLAMA,
        heads=LLAMA_HEADS,
        calibration=8,
        ranks=(2,),
        joint_ranks=(2,),
        sentences=2,
        removals=1,
        draws=1,
    ),
    "tiny_bert": Settings(
        run=RunConfig(model="tiny_bert", task="movie_reviews", batch_size=4, max_length=32),
        depths=(0, 1),
        kinds=BERT,
        heads=BERT_HEADS,
        calibration=8,
        ranks=(2,),
        joint_ranks=(2,),
        sentences=2,
        removals=1,
        draws=1,
    ),
}


@pytest.fixture(scope="session", params=list(SETTINGS))
def measured(request):
    settings = SETTINGS[request.param]
    base, tokenizer = load_base(settings.run)
    torch.manual_seed(0)
    kind = "SEQ_CLS" if request.param == "tiny_bert" else "CAUSAL_LM"
    model = get_peft_model(
        base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type=kind)
    )
    for module in find_lora_modules(model):
        torch.nn.init.normal_(module.B, std=0.1)
    return measure(settings, model, tokenizer)
