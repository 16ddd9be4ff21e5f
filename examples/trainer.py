"""Prune while training, with the Trainer of transformers:  python examples/trainer.py OUT [--model tiny]."""

import tempfile

import torch
from common import batches, load, options
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments

from prunedlora import PruneConfig, PruningCallback, export_adapter


def main() -> None:
    """Train at rank 16, end at rank 8, and write an ordinary PEFT adapter."""
    args = options(__doc__)
    base, tokenizer = load(args.model)
    torch.manual_seed(0)
    lora = LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)

    with tempfile.TemporaryDirectory() as checkpoints:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=checkpoints,
                max_steps=args.steps,
                per_device_train_batch_size=8,
                learning_rate=1e-3,
                logging_steps=20,
                save_strategy="no",
                report_to="none",
                use_cpu=not torch.cuda.is_available(),
            ),
            # One example an item: the trainer makes batches of them itself.
            train_dataset=[
                {key: value[0] for key, value in batch.items()}
                for batch in batches(tokenizer, 8 * args.steps, size=1)
            ],
            data_collator=lambda items: collate(items, tokenizer.pad_token_id),
            # By SVD, which is the default: four events, the last at step 50.
            callbacks=[PruningCallback(PruneConfig(target_rank=8))],
        )
        trainer.train()

    export_adapter(model, args.out)


def collate(items: list[dict], pad: int) -> dict:
    """Examples of different length as one batch."""
    fill = {"input_ids": pad, "attention_mask": 0, "labels": -100}
    pad_to = torch.nn.utils.rnn.pad_sequence
    return {k: pad_to([i[k] for i in items], True, fill[k]) for k in fill}


if __name__ == "__main__":
    main()
