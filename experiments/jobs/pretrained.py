"""Table 8: perplexity of a pretrained model that is compressed in one shot.

``python -m experiments.jobs.pretrained CONFIG.json RESULT.json`` does one method, in all patterns of its configuration.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from experiments.finetuning.models import load_model
from experiments.jobs.record import write_record
from experiments.pretrained.corpus import load_corpus, sequences
from experiments.pretrained.layerwise import (
    gradient_moments,
    linear_layers,
    prune_layers,
    second_moment,
    squares,
)
from experiments.pretrained.pruning import Pattern, gradient_score, mask, sparsegpt, wanda_score
from experiments.settings.jobs import Compression, CompressionMethod
from experiments.settings.validation import read_settings

#: Prunes a model in place.
Compress = Callable[[nn.Module, Pattern], None]
#: Draws the windows of the test text, the same for all runs.
TEST_SEED = 0


def measure(config: Compression) -> dict[str, Any]:
    """Losses of the test sequences after compression by one method, for each of its patterns."""
    started = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, tokenizer = load_model(config.model, getattr(torch, config.dtype))
    model.to(device).eval()
    corpus = load_corpus(config.text)
    seen = sequences(tokenizer, corpus.calibration, config.length, config.sequences, config.seed)
    test = sequences(tokenizer, corpus.test, config.length, config.test_sequences, TEST_SEED)
    test = test.to(device)
    # Statistics are those of the dense model, once for all patterns.
    prune = METHODS[config.method](model, list(seen.to(device).split(config.batch_size)), config)
    dense = {linear: linear.weight.detach().clone() for linear in linear_layers(model)}
    patterns = ("dense",) if config.method == "dense" else config.patterns
    rows = []
    for name in tqdm(patterns, desc=config.method, leave=False):
        if config.method != "dense":
            prune(model, Pattern.parse(name))
        losses = sequence_losses(model, test.split(config.batch_size))
        row = {"pattern": name, "perplexity": float(losses.mean().exp()), "removed": removed(model)}
        rows.append(row | {"losses": [round(x, 6) for x in losses.tolist()]})
        # The next pattern starts from the dense model.
        with torch.no_grad():
            for linear, weight in dense.items():
                linear.weight.copy_(weight)
    facts = {
        "text": corpus.name,
        "sha256": corpus.hashes,
        "layers": len(dense),
        "tokens": test[:, 1:].numel(),
    }
    return {**facts, "rows": rows, "seconds": time.perf_counter() - started}


@torch.no_grad()
def sequence_losses(model: nn.Module, batches: Sequence[Tensor]) -> Tensor:
    """Mean cross-entropy of the tokens of each sequence, in float64; the first token is not predicted."""
    means = []
    for batch in batches:
        logits = model(input_ids=batch, use_cache=False).logits[:, :-1].float()
        losses = cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
        means.append(losses.view(len(batch), -1).double().mean(dim=1))
    return torch.cat(means).cpu()


def removed(model: nn.Module) -> float:
    """Share of zeros in the weights of the linear layers."""
    weights = [linear.weight for linear in linear_layers(model)]
    return sum(int((W == 0).sum()) for W in weights) / sum(W.numel() for W in weights)


def _by_score(score: Callable[[nn.Linear], Tensor]) -> Compress:
    @torch.no_grad()
    def compress(model: nn.Module, pattern: Pattern) -> None:
        for linear in linear_layers(model):
            linear.weight.masked_fill_(mask(score(linear), pattern), 0.0)

    return compress


def _dense(model: nn.Module, batches: list[Tensor], config: Compression) -> Compress:
    return lambda model, pattern: None


def _magnitude(model: nn.Module, batches: list[Tensor], config: Compression) -> Compress:
    return _by_score(lambda linear: linear.weight.abs())


def _random(model: nn.Module, batches: list[Tensor], config: Compression) -> Compress:
    generator = torch.Generator().manual_seed(config.seed)
    return _by_score(
        lambda linear: torch.rand(linear.weight.shape, generator=generator).to(linear.weight.device)
    )


def _gradient(
    model: nn.Module, batches: list[Tensor], config: Compression, power: int = 1
) -> Compress:
    moments = gradient_moments(model, batches)
    return _by_score(
        lambda linear: gradient_score(linear.weight, moments[linear], config.damping, power)
    )


def _wanda(model: nn.Module, batches: list[Tensor], config: Compression) -> Compress:
    def compress(model: nn.Module, pattern: Pattern) -> None:
        def prune(W: Tensor, sums: Tensor) -> Tensor:
            return W.masked_fill(mask(wanda_score(W, sums), pattern, per_row=True), 0.0)

        prune_layers(model, batches, squares, prune)

    return compress


def _sparsegpt(model: nn.Module, batches: list[Tensor], config: Compression) -> Compress:
    def compress(model: nn.Module, pattern: Pattern) -> None:
        prune = partial(
            sparsegpt, pattern=pattern, damping=config.damping, block_size=config.block_size
        )
        prune_layers(model, batches, second_moment, prune)

    return compress


#: From the dense model and calibration batches to what prunes it; gradients are those of the dense model.
METHODS: dict[CompressionMethod, Callable[[nn.Module, list[Tensor], Compression], Compress]] = {
    "dense": _dense,
    "random": _random,
    "magnitude": _magnitude,
    "sparsegpt": _sparsegpt,
    "wanda": _wanda,
    "gradient": _gradient,
    "gradient_squared": partial(_gradient, power=2),
}


def main(arguments: list[str]) -> None:
    """Read the configuration, measure, write the result."""
    config_file, result_file = map(Path, arguments)
    config = read_settings(Compression, config_file)
    write_record(result_file, asdict(config), measure(config))


if __name__ == "__main__":
    main(sys.argv[1:])
