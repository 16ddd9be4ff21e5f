"""Prune while training, in a loop of your own:  python examples/loop.py OUT [--model tiny]."""

import torch
from common import batches, load, options
from peft import LoraConfig, get_peft_model

from prunedlora import LoraRankPruner, PruneConfig, export_adapter


def main() -> None:
    """Train at rank 16, end at rank 8, and write an ordinary PEFT adapter."""
    args = options(__doc__)
    base, tokenizer = load(args.model)
    torch.manual_seed(0)
    lora = LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=args.steps)

    # By SVD, which is the default: four events, the last at step 50.
    config = PruneConfig(target_rank=8)
    pruner = LoraRankPruner(model, optimizer, config, total_steps=args.steps, scheduler=scheduler)
    print(f"last event at step {pruner.plan()[-1][0]} of {args.steps}")

    with pruner:
        for number, batch in enumerate(batches(tokenizer, args.steps), start=1):
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            if number % 20 == 0:
                print(f"step {number}: loss {loss.item():.3f}")

    print(pruner.report())
    export_adapter(model, args.out, record=pruner.record())


if __name__ == "__main__":
    main()
