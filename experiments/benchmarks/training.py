"""What the benchmarks of training share: a model of real shape, a step of it, and the least that a step takes."""

from collections.abc import Callable
from dataclasses import dataclass

import peft
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from experiments.finetuning.precision import forward
from experiments.settings.jobs import Precision

#: Bytes for each trained number in a step, float32: read in both passes, its gradient written; the
#: optimiser reads the gradient, and reads and writes the number and two moments.
TRAINED = 4 * (2 + 1 + 1 + 2 * 3)


@dataclass(frozen=True)
class Shape:
    """A Llama, and the batch that a step takes.

    Attributes:
        hidden: width of the model.
        intermediate: width of its feed-forward layers.
        layers: number of blocks.
        heads: of attention.
        kv_heads: heads of keys and values.
        vocabulary: number of tokens there are; the embedding is the head.
        batch: examples of a step.
        length: tokens of an example.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    batch: int
    length: int

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.batch * self.length

    @property
    def linear(self) -> list[tuple[int, int]]:
        """(d_out, d_in) of the linear layers of a block: queries, keys, values, and the others."""
        h, i = self.hidden, self.intermediate
        kv = h // self.heads * self.kv_heads
        return [(h, h), (kv, h), (kv, h), (h, h), (i, h), (i, h), (h, i)]

    @property
    def adapted_width(self) -> int:
        """Sum of d_out + d_in over all linear layers: trained numbers for each component."""
        return self.layers * sum(map(sum, self.linear))

    @property
    def modules(self) -> int:
        """How many linear layers are adapted."""
        return self.layers * len(self.linear)


#: SmolLM2-135M.
SMOLLM2 = Shape(576, 1536, 30, 9, 3, 49152, batch=16, length=180)


def model_and_optimizer(
    shape: Shape, rank: int, device: str
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Random weights, equal for equal arguments, with LoRA on all linear layers; bfloat16 on a GPU."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=True,
    )
    base = LlamaForCausalLM(config).to(device, weight_dtype(device))
    lora = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear")
    model = peft.get_peft_model(base, lora)
    return model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)


def weight_dtype(device: str) -> torch.dtype:
    """Of the frozen weights, and of products."""
    return torch.bfloat16 if device.startswith("cuda") else torch.float32


def stepper(
    model: nn.Module, optimizer: torch.optim.Optimizer, shape: Shape, device: str
) -> Callable[[], None]:
    """A function that takes one training step on random tokens; the same tokens for equal shapes."""
    generator = torch.Generator().manual_seed(0)
    size = (shape.batch, shape.length)
    tokens = torch.randint(shape.vocabulary, size, generator=generator).to(device)
    precision: Precision = "bf16_autocast" if device.startswith("cuda") else "float32"

    def step() -> None:
        optimizer.zero_grad()
        with forward(precision, torch.device(device)):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()

    return step


def step_flops(shape: Shape, rank: int) -> float:
    """Operations of a step: products with frozen weights, with the adapter, and in attention.

    Forwards and to the inputs, with the adapter to its factors too.
    """
    block = sum(d_out * d_in for d_out, d_in in shape.linear)
    head = shape.vocabulary * shape.hidden
    frozen = 4 * (shape.layers * block + head)
    adapter = 6 * shape.adapted_width * rank
    # Nothing before the first block is trained, so its queries, keys and values pass nothing back.
    first = shape.linear[:3]
    unused = 2 * sum(d_out * d_in + d_in * rank for d_out, d_in in first)
    return float(shape.tokens * (frozen + adapter - unused)) + attention_flops(shape)


def attention_flops(shape: Shape) -> float:
    """Of scores and their products with the values, half of them masked; and twice as much backwards."""
    return float(6 * shape.tokens * shape.layers * shape.length * shape.hidden)


def step_bytes(shape: Shape, rank: int, device: str) -> float:
    """Bytes that a step must move: frozen weights, read twice, and what is trained; activations come on top."""
    block = sum(d_out * d_in for d_out, d_in in shape.linear)
    frozen = shape.layers * block + shape.vocabulary * shape.hidden
    return float(2 * weight_dtype(device).itemsize * frozen + TRAINED * shape.adapted_width * rank)
