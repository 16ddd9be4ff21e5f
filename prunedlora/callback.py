"""Rank pruning for the transformers `Trainer`."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prunedlora.config import PruneConfig
from prunedlora.pruner import LoraRankPruner


class PruningCallback(TrainerCallback):
    """Prunes the model's adapter during ``trainer.train()`` and leaves it at the target rank.

    ``trainer = Trainer(model=model, args=args, train_dataset=data, callbacks=[PruningCallback(config)])``

    The pruner hooks itself to the optimiser, so that it acts after gradient clipping and before the step, once a
    step whatever the accumulation, and not at all in a step skipped by the fp16 scaler.

    Args:
        config: what to remove, and when.
        adapter: name of the adapter.

    Raises:
        PrunedLoRAError: from ``trainer.train()``, as `LoraRankPruner` says; in particular
            `PruningIncompleteError` when training ends before the last event.
    """

    def __init__(self, config: PruneConfig, adapter: str = "default") -> None:
        self.config, self.adapter = config, adapter
        self.pruner: LoraRankPruner | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attach a pruner to the trainer's optimiser."""
        if self.pruner is not None:
            self.pruner.close()
        self.pruner = LoraRankPruner(
            kwargs["model"],
            kwargs["optimizer"],
            self.config,
            total_steps=state.max_steps,
            adapter=self.adapter,
        )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check that every event took place, and shrink the adapter."""
        assert self.pruner is not None
        self.pruner.finish()
