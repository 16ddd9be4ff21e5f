"""Logits of a causal language model where they predict a token that counts, and no others where it can leave them out.

A logit for each token of a prompt and each word of the vocabulary takes more memory than all statistics together.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from jaxtyping import Int
from torch import Tensor, nn

#: Label of a position that the losses of transformers leave out.
IGNORED = -100


def transformers_model(model: nn.Module) -> nn.Module | None:
    """The transformers model in its wrappers; None if there is none."""
    parts = (m for m in model.modules() if type(m).__module__.startswith("transformers"))
    return next(parts, None)


def logits_at_targets(
    model: nn.Module, inputs: Mapping[str, Any], labels: Int[Tensor, "n t"]
) -> tuple[Any, Int[Tensor, "n k"]]:
    """Logits from the first position on that predicts a counted token in any sample, and what each predicts.

    Args:
        model: a causal language model, in whatever wrappers.
        inputs: its arguments, without labels.
        labels: of each token, `IGNORED` where it is not to be predicted.

    Returns:
        Logits (n, k, vocabulary), None if the model gives none; and labels of the tokens that they predict.
    """
    following = labels[:, 1:]
    kept: dict[str, int] = {}
    if _leaves_out(model) and following.shape[1]:
        first = int((following != IGNORED).any(dim=0).int().argmax())
        following = following[:, first:]
        # With the last, which predicts nothing that is there.
        kept = {"logits_to_keep": following.shape[1] + 1}
    logits = getattr(model(**{**inputs, **kept}), "logits", None)
    if not isinstance(logits, Tensor):
        return None, following
    return logits[:, -following.shape[1] - 1 : -1], following


def _leaves_out(model: nn.Module) -> bool:
    """Whether the model computes as many logits, from the end, as it is asked for."""
    inner = transformers_model(model)
    return inner is not None and "logits_to_keep" in inspect.signature(inner.forward).parameters
