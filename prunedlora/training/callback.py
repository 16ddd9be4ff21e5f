"""Rank pruning for the transformers `Trainer`."""

from pathlib import Path
from typing import Any

from prunedlora.adapters.peft import description, name_in_base, peft_config
from prunedlora.errors import ConfigurationError, MissingPackageError, PrunedLoRAError
from prunedlora.training.checkpoint import (
    STATE_FILE,
    fingerprint,
    read_state,
    shrink_saved,
    write_state,
)
from prunedlora.training.config import PruneConfig
from prunedlora.training.pruner import LoraRankPruner, refuse_data_parallel

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_callback import ExportableState
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
except ImportError as error:
    raise MissingPackageError(
        'PruningCallback needs transformers: pip install "prunedlora[trainer]"'
    ) from error


#: Entries of a PEFT configuration that say ranks and scalings.
_RANKS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")


class PruningCallback(TrainerCallback, ExportableState):
    """Prunes the model's adapter during ``trainer.train()`` and leaves it at the target rank.

    ``trainer = Trainer(model=model, args=args, train_dataset=data, callbacks=[PruningCallback(config)])``

    The pruner hooks itself to the optimiser, so that it acts after gradient clipping and before the step, once a
    step whatever the accumulation, and not at all in a step skipped by the fp16 scaler.

    Every checkpoint of the trainer holds the pruner's state too, and ``trainer.train(resume_from_checkpoint=...)``
    goes on from it.  The adapter in the checkpoint of the last step is at the target rank, as that in memory.

    With ``load_best_model_at_end`` the best model is looked for among those after the last event: what is best so far
    is forgotten there.

    Args:
        config: what to remove, and when; or these settings as JSON.
        adapter: name of the adapter.
        resume_from: the checkpoint's folder, where it is not ``output_dir/checkpoint-STEP``.

    Raises:
        PrunedLoRAError: from ``trainer.train()``, as `LoraRankPruner` says; in particular
            `PruningIncompleteError` when training ends before the last event, and `ConfigurationError` when it is
            resumed from a checkpoint without the pruner's state.
    """

    def __init__(
        self,
        config: PruneConfig | str,
        adapter: str = "default",
        *,
        resume_from: str | Path | None = None,
    ) -> None:
        self.config = PruneConfig.from_json(config) if isinstance(config, str) else config
        self.adapter = adapter
        self.resume_from = resume_from
        self.pruner: LoraRankPruner | None = None
        self._folder: Path | None = None  # the checkpoint that is being written
        self._collected: dict[str, Any] | None = None  # the pruner's state for it
        self._written = False  # it is in the checkpoint
        self._forgotten = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attach a pruner to the trainer's optimiser; it goes on where a resumed training was."""
        if self.pruner is not None:
            self.pruner.close()
        self._collected = None
        if args.n_gpu > 1:
            refuse_data_parallel(self.config.criterion)
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
                self._resume(args, state)
            except PrunedLoRAError:
                self.pruner.close()
                raise
        self._forgotten = self.pruner.complete
        # A trainer that goes on from a checkpoint without it would look for it in vain.
        state.stateful_callbacks.setdefault(type(self).__name__, self.state())

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the pruner's state into the checkpoint, where it is not there yet."""
        assert self.pruner is not None
        if self._collected is None:
            self._prepare(args, state)
        self.state()
        self._collected = None
        self._folder = None

    def state(self) -> dict[str, Any]:
        """What the trainer keeps of this callback: settings, and a hash of the pruner's state.

        The trainer asks in the middle of writing a checkpoint, before it deletes older ones: the pruner's state is
        written here, so that a training that is killed then can be resumed from either.
        """
        said = {"config": self.config.to_json(), "adapter": self.adapter}
        if self._collected is None or self._folder is None:
            return {"args": said, "attributes": {}}
        if self._folder.exists() and not self._written:
            write_state(self._collected, self._folder / STATE_FILE)
            self._written = True
        return {"args": said, "attributes": {"fingerprint": fingerprint(self._collected)}}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget what was best before the last event; collect the pruner's state where a checkpoint follows."""
        assert self.pruner is not None
        if self.pruner.complete and not self._forgotten:
            state.best_metric = state.best_model_checkpoint = state.best_global_step = None
            self._forgotten = True
        if control.should_save:
            self._prepare(args, state)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Collect the pruner's state where a checkpoint follows."""
        if control.should_save:
            self._prepare(args, state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add ranks, events and cost to the trainer's log and to its history."""
        if self.pruner is None or "loss" not in (logs or {}):
            return
        assert logs is not None
        logs |= self.pruner.numbers()
        if state.log_history:
            state.log_history[-1] |= self.pruner.numbers()

    def add_to(self, trainer: Any) -> None:
        """Put this callback before all others of a trainer, so that reporters (wandb, TensorBoard) log its numbers.

        In place of ``Trainer(callbacks=[...])``, where it comes after them.
        """
        trainer.callback_handler.callbacks.insert(0, self)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check that every event took place, and shrink the adapter."""
        assert self.pruner is not None
        live = {name_in_base(name): index for name, index in self.pruner.live.items()}
        self.pruner.finish()
        if args.should_save and not state.is_hyper_param_search:
            config = vars(peft_config(self.pruner.model, self.adapter))
            scalings = {name_in_base(m.name): m.scaling for m in self.pruner.modules}
            sizes = {name: (index.numel(), scalings[name]) for name, index in live.items()}
            ranks = {key: config[key] for key in _RANKS} | description(config, sizes)
            shrink_saved(_folder(args, state), live, ranks)

    def _prepare(self, args: TrainingArguments, state: TrainerState) -> None:
        """Collect the pruner's state, in every process; those that write files know where."""
        assert self.pruner is not None
        self._collected = self.pruner.state_dict()
        self._written = False
        writes = args.should_save and not state.is_hyper_param_search
        self._folder = _folder(args, state) if writes else None

    def _resume(self, args: TrainingArguments, state: TrainerState) -> None:
        """Let the pruner go on from the checkpoint that the trainer has loaded."""
        assert self.pruner is not None
        folder = Path(self.resume_from or _folder(args, state))
        saved = read_state(folder / STATE_FILE)
        kept: Any = state.stateful_callbacks.get(type(self).__name__, {})
        kept = kept[0] if isinstance(kept, list) and kept else kept
        expected = kept.get("attributes", {}).get("fingerprint") if isinstance(kept, dict) else None
        if expected not in (None, fingerprint(saved)):
            raise ConfigurationError(
                f"{folder} is of another training than the checkpoint that this one goes on from; say "
                "PruningCallback(config, resume_from=FOLDER) with the same folder as for the trainer"
            )
        self.pruner.load_state_dict(saved)


def _folder(args: TrainingArguments, state: TrainerState) -> Path:
    """The trainer's checkpoint of this step."""
    return Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
