"""Greedy decoding whose every step is the same work, so that a GPU can be given a whole step at once.

A step of a small model is thousands of small kernels; started one by one they take many times as long as they run.
Here keys and values have their full length from the start, and everything that changes is a tensor that is changed in
place: after some ordinary steps one is recorded as a CUDA graph and replayed.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import Cache

#: Ordinary steps before one is recorded: kernels choose and allocate at their first calls.
WARM_UP = 3
#: Steps between looks at whether all texts have ended, for which the GPU is waited for.
LOOK = 16


class FixedCache(Cache):
    """Keys and values of all layers, of full length from the start; what is not yet there is masked.

    Args:
        length: tokens of prompt and continuation.
        slots: where the next tokens go; changed in place from step to step.
    """

    def __init__(self, length: int, slots: Int[Tensor, " n"]) -> None:
        super().__init__(layers=[])
        self.slots = slots
        self._length = length
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the keys and values of the next tokens; returns all of a layer."""
        if layer_idx not in self._kept:
            sizes = (*key_states.shape[:2], self._length)
            self._kept[layer_idx] = (
                key_states.new_zeros(*sizes, key_states.shape[-1]),
                value_states.new_zeros(*sizes, value_states.shape[-1]),
            )
        keys, values = self._kept[layer_idx]
        keys.index_copy_(2, self.slots, key_states)
        values.index_copy_(2, self.slots, value_states)
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Models ask for it where positions are not given; here they always are."""
        return 0


@torch.no_grad()
def greedy(
    model: nn.Module,
    prompts: Int[Tensor, "n length"],
    there: Bool[Tensor, "n length"],
    new: int,
    ends: list[int],
    pad: int,
) -> Int[Tensor, "n new"]:
    """The likeliest next token, again and again; all of `pad` after an end.

    Args:
        model: a causal language model of transformers, with an adapter or without.
        prompts: tokens, padded on the left.
        there: what of them is not padding.
        new: tokens to add, at most.
        ends: tokens with which a text ends.
        pad: token that stands after an end.
    """
    count, length = prompts.shape
    device = prompts.device
    total = length + new
    cache = FixedCache(total, torch.arange(length, device=device))
    # Every token sees itself, padding too: where nothing is seen there would be NaN, which a zero weight does not hide.
    causal = torch.ones(length, total, dtype=torch.bool, device=device).tril()
    padded = nn.functional.pad(there.bool(), (0, new))
    mask = causal & (padded[:, None, None, :] | torch.eye(length, total, device=device).bool())
    positions = (there.long().cumsum(dim=1) - 1).clamp(min=0)
    logits = model(
        input_ids=prompts,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits

    # From here on one token for each text, and its column among the new ones.
    end = torch.tensor(ends, device=device)
    tokens = torch.full((count, new), pad, device=device)
    token = logits[:, -1].argmax(dim=-1, keepdim=True)
    tokens[:, :1] = token
    finished = (token == end).any(dim=1, keepdim=True)
    column = torch.zeros(1, dtype=torch.long, device=device)
    position = positions[:, -1:].clone()
    seen = padded[:, None, None, :].clone()
    cache.slots = torch.full((1,), length - 1, device=device)

    def step() -> None:
        cache.slots += 1
        position.add_(1)
        column.add_(1)
        seen.index_fill_(3, cache.slots, True)
        output = model(
            input_ids=token,
            attention_mask=seen,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
        )
        following = output.logits[:, -1].argmax(dim=-1, keepdim=True)
        token.copy_(following.masked_fill(finished, pad))
        finished.logical_or_((token == end).any(dim=1, keepdim=True))
        tokens.index_copy_(1, column, token)

    do = step
    for i in range(1, new):
        if i == 1 + WARM_UP and device.type == "cuda":
            do = _recorded(step)
        do()
        if i % LOOK == 0 and bool(finished.all()):
            break
    return tokens


def _recorded(step: Callable[[], None]) -> Callable[[], None]:
    """A step as a CUDA graph, which does what the step did when it was recorded; the step itself where that fails."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    try:
        with torch.cuda.graph(graph):
            step()
    except RuntimeError as error:
        warnings.warn(f"decoding step by step, without a CUDA graph: {error}", stacklevel=2)
        return step
    return graph.replay
