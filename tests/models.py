"""Small random models with LoRA adapters, and what most tests do with them."""

from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from prunedlora import find_lora_modules


def llama() -> LlamaForCausalLM:
    """The same random two-layer Llama each time."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=32,
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
            )
        )


def with_lora(*, zero_B: bool = False, **settings: Any) -> PeftModel:
    """A Llama with an adapter whose B is not zero; keyword arguments go to LoraConfig."""
    settings = {
        "r": 8,
        "lora_alpha": 12,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        **settings,
    }
    model = get_peft_model(llama(), LoraConfig(task_type="CAUSAL_LM", **settings))
    if not zero_B:
        for module in find_lora_modules(model):
            nn.init.normal_(module.B, std=0.1)
    return model


def ids(batch: int = 4, length: int = 6) -> torch.Tensor:
    """Random token ids."""
    return torch.randint(0, 32, (batch, length))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, factor: float = 1.0) -> None:
    """One training step on random tokens; the loss is multiplied by `factor`."""
    optimizer.zero_grad()
    tokens = ids()
    (factor * model(input_ids=tokens, labels=tokens).loss).backward()
    optimizer.step()


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that require a gradient."""
    return [p for p in model.parameters() if p.requires_grad]
