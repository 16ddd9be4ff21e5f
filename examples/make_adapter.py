"""A small model with a trained adapter, to try the command on:  python examples/make_adapter.py [--model smollm2].

Writes ``my-model`` (the base model), ``my-adapter`` (rank 16, a PEFT folder) and ``examples.jsonl`` into the current
folder.
"""

import argparse
import json
from pathlib import Path

import torch
from common import batches, load, sums
from peft import LoraConfig, get_peft_model


def main() -> None:
    """Make all three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=("smollm2", "tiny"), default="tiny")
    parser.add_argument("--steps", type=int, default=60, help="optimiser steps")
    args = parser.parse_args()
    for name in ("my-model", "my-adapter", "examples.jsonl"):
        if Path(name).exists():
            raise SystemExit(f"{name} exists; remove it, or work in another folder")

    base, tokenizer = load(args.model)
    base.save_pretrained("my-model")
    tokenizer.save_pretrained("my-model")
    torch.manual_seed(0)
    lora = LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for batch in batches(tokenizer, args.steps):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    model.save_pretrained("my-adapter")
    lines = (json.dumps(example) for example in sums(64, seed=1))
    Path("examples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
