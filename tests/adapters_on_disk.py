"""Adapters in files, for the tests of what reads and writes them."""

import json
import re
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from prunedlora import (
    find_lora_modules,
)
from prunedlora.files.adapter_file import open_adapter
from tests.models import ids, llama

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def saved(
    folder: Path, *, dtype: torch.dtype = torch.float32, seed: int = 3, **settings: Any
) -> Path:
    """A PEFT adapter of the random Llama, saved by PEFT, with B that is not zero."""
    settings = {
        "r": 8,
        "lora_alpha": 12,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        **settings,
    }
    model = peft.get_peft_model(llama(), peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    generator = torch.Generator().manual_seed(seed)
    for module in find_lora_modules(model):
        for p in (module.B, module.A):
            p.data.copy_(torch.randn(p.shape, generator=generator) * 0.2)
            p.data = p.data.to(dtype)
    model.save_pretrained(str(folder))
    return folder


def loaded(folder: Path) -> peft.PeftModel:
    """The random Llama with a saved adapter, by plain PEFT."""
    return peft.PeftModel.from_pretrained(llama(), str(folder)).eval()


def base_folder(folder: Path) -> Path:
    """The random Llama with a tokenizer of single letters, as a model folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    llama().save_pretrained(str(folder))
    vocabulary = {letter: i for i, letter in enumerate("_^$abcdefghijklmnopqrstuvwxyz")}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="_"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="$", pad_token="_"
    ).save_pretrained(str(folder))
    assert AutoTokenizer.from_pretrained(str(folder))("abc").input_ids == [3, 4, 5]
    return folder


def kohya(
    file: Path, *, rank: int = 4, alpha: float | None = 2.0, dtype: torch.dtype = torch.float32
) -> Path:
    """A file as tools for diffusion models write it: one linear layer, one 1x1 and one 3x3 convolution."""
    generator = torch.Generator().manual_seed(5)
    shapes = {
        "lora_unet_attn_to_q": ((rank, 10), (12, rank)),
        "lora_unet_proj_in": ((rank, 10, 1, 1), (12, rank, 1, 1)),
        "lora_unet_conv1": ((rank, 6, 3, 3), (8, rank, 1, 1)),
    }
    tensors = {}
    for name, (down, up) in shapes.items():
        tensors[f"{name}.lora_down.weight"] = torch.randn(down, generator=generator).to(dtype)
        tensors[f"{name}.lora_up.weight"] = torch.randn(up, generator=generator).to(dtype)
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha, dtype=dtype)
    save_file(
        tensors,
        file,
        metadata={"ss_network_dim": str(rank), "ss_network_alpha": str(alpha), "mine": "kept"},
    )
    return file


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    """Of the same tokens each time."""
    torch.manual_seed(9)
    return model(input_ids=ids()).logits


def products(source):
    """s B A of every module in a file."""
    return {
        m.name: m.scaling * f.B.double() @ f.A.double() for m, f in open_adapter(source).factors()
    }


def examples(file, count=24):
    torch.manual_seed(0)
    texts = ["".join(chr(97 + int(i)) for i in torch.randint(26, (12,))) for _ in range(count)]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(file)


def edited(folder, change):
    """A saved adapter whose tensors were changed by a function."""
    saved(folder)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def configured(folder, **entries):
    saved(folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))
    return folder


def best(product, rank):
    U, S, Vh = torch.linalg.svd(product, full_matrices=False)
    return U[:, :rank] * S[:rank] @ Vh[:rank]


def loha(file: Path, rank: int = 3, alpha: float = 2.0) -> Path:
    """A file of LyCORIS with one linear layer."""
    generator = torch.Generator().manual_seed(8)
    shapes = {"w1_a": (20, rank), "w1_b": (rank, 30), "w2_a": (20, rank), "w2_b": (rank, 30)}
    tensors = {f"x.hada_{end}": torch.randn(s, generator=generator) for end, s in shapes.items()}
    save_file({**tensors, "x.alpha": torch.tensor(alpha)}, file)
    return file


def tuned_folder(folder: Path) -> Path:
    """The random Llama after a change of some of its weights."""
    model = llama()
    generator = torch.Generator().manual_seed(6)
    for name, weight in model.named_parameters():
        if re.search("q_proj|down_proj|norm", name):
            weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    model.save_pretrained(str(folder))
    return folder
