"""Answers judged by lm-eval (EleutherAI's harness), where a task asks for it.

The harness builds its own prompts from the data set; that they are about our examples, in our order, is checked.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedTokenizerBase

from experiments.tasks import Example
from experiments.tasks.base import Harness


def right_answers(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    harness: Harness,
    examples: list[Example],
    size: int,
) -> list[bool]:
    """Whether lm-eval finds the model's answer to each example right; greedy, without examples in the prompt.

    Args:
        model: a causal language model, with an adapter or without.
        tokenizer: of the model.
        harness: the task as lm-eval knows it.
        examples: the first of its test split.
        size: prompts that are decoded together.

    Raises:
        SystemExit: lm-eval is not installed.
        RuntimeError: lm-eval asked about something other than these examples.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval import tasks as known
        from lm_eval.models.huggingface import HFLM
    except ImportError:
        raise SystemExit(
            "this task is evaluated by lm-eval: pip install 'prunedlora[hub]'"
        ) from None
    definition = yaml.safe_load((Path(known.__file__).parent / harness.file).read_text())
    with _kept_padding(tokenizer):
        output = simple_evaluate(
            HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size),
            tasks=[definition | harness.changes],
            # the task is given: without an index of lm-eval's own 14,000 files it is found much faster
            task_manager=known.TaskManager(include_defaults=False),
            num_fewshot=0,
            limit=len(examples),
            bootstrap_iters=0,
            log_samples=True,
        )
    assert output is not None
    (samples,) = output["samples"].values()
    chosen = [s for s in samples if s["filter"] == harness.filter]
    chosen.sort(key=lambda s: s["doc_id"])
    if [harness.prompt(s["doc"]) for s in chosen] != [e.prompt for e in examples]:
        raise RuntimeError(
            "lm-eval's questions are not those of the test split; is its data set the pinned one?"
        )
    return [bool(s[harness.metric]) for s in chosen]


@contextmanager
def _kept_padding(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Puts back the side on which prompts are padded, which the harness sets."""
    side: Any = tokenizer.padding_side
    try:
        yield
    finally:
        tokenizer.padding_side = side
