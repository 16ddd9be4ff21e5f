"""Part a: the printed and the corrected activation bound against the output error of real attention heads.

The query, key and value layers of one block are pruned; all that comes before them stays, so their inputs are the
same before and after.  Queries and keys are taken where the softmax reads them, after rotary embedding.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask

from experiments.finetuning.data import collate, collate_texts, encode
from experiments.finetuning.models import classifies
from experiments.jobs.one_shot import Variant, reduced
from experiments.real_layers.edits import changed
from experiments.real_layers.measured_model import MeasuredModel, Place
from experiments.tasks import TASKS
from prunedlora.ranks.reduction import Candidate
from theory.checking.numerics import spectral
from theory.statements.attention import Heads, output_error, probabilities
from theory.statements.s04_printed_activation_bound import printed_bound
from theory.statements.s05_softmax_bound import check, corrected_bound

RULES = ("magnitude", "llmpruner2023", "prunedlora2025", "sparsegpt2023", "kfac", "svd_kfac")
RECORDED = "recorded"

_record: list[tuple[Tensor, Tensor, Tensor, Tensor | None]] = []


def _recording(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> Any:
    # Several queries may share a key and a value: repeated here, so that heads can be compared one by one.
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    _record.append((query, key, value, mask))
    options.pop("is_causal", None)
    repeated = type(
        "Repeated", (), {"num_key_value_groups": 1, "is_causal": False, "training": False}
    )()
    return sdpa_attention_forward(repeated, query, key, value, mask, is_causal=False, **options)


AttentionInterface.register(RECORDED, _recording)
AttentionMaskInterface.register(RECORDED, eager_mask)


@contextmanager
def recorded(model: Any) -> Iterator[None]:
    """The model with attention that keeps its inputs."""
    before = model.config._attn_implementation
    model.set_attn_implementation(RECORDED)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@torch.no_grad()
def heads_of(
    model: Any, batch: dict[str, Tensor], depths: tuple[int, ...]
) -> dict[int, tuple[Any, ...]]:
    """Queries, keys, values and mask of some blocks in float64, as (sentences, heads, tokens, d)."""
    _record.clear()
    model(**batch)
    out = {
        depth: tuple(None if t is None else t.double() for t in _record[depth]) for depth in depths
    }
    _record.clear()
    return out


def sentences(measured: MeasuredModel) -> dict[str, Tensor]:
    """A batch of test examples of equal length in tokens, so that nothing is padded."""
    run = measured.settings.run
    task = TASKS[run.task]
    tokenizer = measured.tokenizer
    device = torch.device("cpu")
    examples = task.test(10 * measured.settings.calibration)
    if classifies(run.model):
        lengths = [len(tokenizer(e.text).input_ids) for e in examples]
    else:
        lengths = [len(encode(e, tokenizer).ids) for e in examples]
    common = Counter(lengths).most_common(1)[0][0]
    of_that_length = [e for e, n in zip(examples, lengths, strict=True) if n == common]
    chosen = of_that_length[: measured.settings.sentences]
    if classifies(run.model):
        batch = collate_texts(chosen, task.labels, tokenizer, run.max_length, device)
    else:
        batch = collate([encode(e, tokenizer) for e in chosen], tokenizer.pad_token_id, device)
    batch.pop("labels")
    return batch


def bounds(measured: MeasuredModel) -> list[dict[str, Any]]:
    """One row for each block, rule and rank: medians and extremes over sentences and heads."""
    settings = measured.settings
    batch = sentences(measured)
    model: Any = measured.model.get_base_model()  # type: ignore[operator]
    rows = []
    jobs = [(d, rule, rank) for d in settings.depths for rule in RULES for rank in settings.ranks]
    with recorded(model):
        before = heads_of(measured.model, batch, settings.depths)
        for depth, rule, rank in tqdm(jobs, desc="attention"):
            layers = [measured.candidates[Place(depth, kind)] for kind in settings.heads]
            for pruned in (layers, layers[2:]):
                after = _after(measured, batch, depth, reduced(pruned, Variant(rule, "own"), rank))
                row = {
                    "depth": depth,
                    "rule": rule,
                    "rank": rank,
                    "pruned": "qkv" if len(pruned) == 3 else "v",
                }
                rows.append(row | compare(before[depth], after))
    return rows


def _after(
    measured: MeasuredModel, batch: dict[str, Tensor], depth: int, new: list[tuple[Candidate, Any]]
) -> tuple[Tensor, ...]:
    """Queries, keys, values and mask of a block while all the new factors are in the model."""
    if not new:
        return heads_of(measured.model, batch, (depth,))[depth]
    (candidate, factors), *rest = new
    with changed(candidate, factors):
        return _after(measured, batch, depth, rest)


def compare(before: tuple[Tensor, ...], after: tuple[Tensor, ...]) -> dict[str, Any]:
    """Both bounds against the output error, head by head and sentence by sentence."""
    mask = before[3]
    if mask is not None:
        mask = (mask >= 0).expand(*before[0].shape[:2], *mask.shape[-2:])
    heads = Heads(*before[:3], *after[:3], mask)  # type: ignore[call-arg]  # three and three
    error = output_error(heads)
    printed = printed_bound(heads)
    corrected = corrected_bound(heads)
    epsilon = heads.epsilon
    result = check(heads)
    norms = spectral(probabilities(heads.Q, heads.K, mask))
    return {
        "heads": error.numel(),
        "tokens": before[0].shape[-2],
        "epsilon": epsilon.median().item(),
        "error": error.median().item(),
        "norm_P": norms.median().item(),
        "norm_P_max": norms.max().item(),
        "error_over_epsilon_max": (error / epsilon).max().item(),
        "error_over_printed": (error / printed).median().item(),
        "error_over_printed_max": (error / printed).max().item(),
        "error_over_corrected": (error / corrected).median().item(),
        "error_over_corrected_max": (error / corrected).max().item(),
        "printed_violated": int((error > printed).sum()),
        "corrected_violated": int(result.violated.sum()),
        "corrected_below_printed": (corrected < printed).double().mean().item(),
    }
