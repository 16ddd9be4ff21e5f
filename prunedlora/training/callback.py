"""Rank pruning for the transformers `Trainer`."""

from pathlib import Path
from typing import Any

from prunedlora.errors import MissingPackageError, PrunedLoRAError
from prunedlora.training.checkpoint import STATE_FILE, read_state, write_state
from prunedlora.training.config import PruneConfig
from prunedlora.training.pruner import LoraRankPruner

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
except ImportError as error:
    raise MissingPackageError(
        'PruningCallback needs transformers: pip install "prunedlora[trainer]"'
    ) from error


class PruningCallback(TrainerCallback):
    """Prunes the model's adapter during ``trainer.train()`` and leaves it at the target rank.

    ``trainer = Trainer(model=model, args=args, train_dataset=data, callbacks=[PruningCallback(config)])``

    The pruner hooks itself to the optimiser, so that it acts after gradient clipping and before the step, once a
    step whatever the accumulation, and not at all in a step skipped by the fp16 scaler.

    Every checkpoint of the trainer holds the pruner's state too, and ``trainer.train(resume_from_checkpoint=...)``
    goes on from it.

    Args:
        config: what to remove, and when.
        adapter: name of the adapter.
        resume_from: the checkpoint's folder, where it is not ``output_dir/checkpoint-STEP``.

    Raises:
        PrunedLoRAError: from ``trainer.train()``, as `LoraRankPruner` says; in particular
            `PruningIncompleteError` when training ends before the last event, and `ConfigurationError` when it is
            resumed from a checkpoint without the pruner's state.
    """

    def __init__(
        self,
        config: PruneConfig,
        adapter: str = "default",
        *,
        resume_from: str | Path | None = None,
    ) -> None:
        self.config = config
        self.adapter = adapter
        self.resume_from = resume_from
        self.pruner: LoraRankPruner | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attach a pruner to the trainer's optimiser; it goes on where a resumed training was."""
        if self.pruner is not None:
            self.pruner.close()
        self.pruner = LoraRankPruner(
            kwargs["model"],
            kwargs["optimizer"],
            self.config,
            total_steps=state.max_steps,
            adapter=self.adapter,
            # A resumed training has said it before, and its scheduler has stepped.
            scheduler=kwargs.get("lr_scheduler") if state.global_step == 0 else None,
        )
        if state.global_step > 0:
            try:
                self.pruner.load_state_dict(
                    read_state(Path(self.resume_from or _folder(args, state)) / STATE_FILE)
                )
            except PrunedLoRAError:
                self.pruner.close()
                raise

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the pruner's state into the checkpoint."""
        assert self.pruner is not None
        collected = self.pruner.state_dict()  # in every process
        if args.should_save and not state.is_hyper_param_search:
            write_state(collected, _folder(args, state) / STATE_FILE)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check that every event took place, and shrink the adapter."""
        assert self.pruner is not None
        self.pruner.finish()


def _folder(args: TrainingArguments, state: TrainerState) -> Path:
    """The trainer's checkpoint of this step."""
    return Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
