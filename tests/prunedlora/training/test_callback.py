import json

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from prunedlora import PruneConfig, find_lora_modules
from prunedlora.criteria import register, unregister
from prunedlora.errors import ConfigurationError, PruningIncompleteError
from prunedlora.training.callback import PruningCallback
from tests.models import ids, llama

CONFIG = PruneConfig(
    target_rank=4, criterion="prunedlora2025", interval=2, per_event=2, warmup_steps=2
)


def trainer(model, folder, *callbacks, data=None, **settings) -> Trainer:
    data = data or [{"input_ids": row, "labels": row} for row in ids(48)]
    settings = {
        "max_steps": 8,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "learning_rate": 1e-3,
        **settings,
    }
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        disable_tqdm=True,
        **settings,
    )
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=data,
        eval_dataset=data[:4],
        callbacks=list(callbacks),
    )


@pytest.mark.supports("AdamW", "none", "Trainer", "float32")
@pytest.mark.supports("AdamW", "none", "Trainer", "bfloat16")
@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [({}, 1e-5), ({"gradient_accumulation_steps": 3}, 1e-5), ({"bf16": True}, 1e-2)],
)
def test_the_trainer_prunes_to_the_target_rank_and_the_adapter_loads(
    lora, tmp_path, settings, tolerance
):
    model = lora(zero_B=True)
    callback = PruningCallback(CONFIG)
    trainer(model, tmp_path / "run", callback, **settings).train()
    assert [event.step for event in callback.pruner.events] == [4, 6]
    assert {m.rank for m in find_lora_modules(model)} == {4}
    model.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(llama(), tmp_path / "adapter").eval()
    tokens = ids()
    torch.testing.assert_close(
        again(input_ids=tokens).logits,
        model.eval()(input_ids=tokens).logits,
        rtol=0,
        atol=tolerance,
    )


def test_criteria_see_gradients_after_clipping(lora, tmp_path):
    seen = []

    @register("spy", needs=("gradient_B", "gradient_A"), unit="none")
    def spy(factors, statistics):
        seen.append(
            (statistics.gradient_B.square().sum() + statistics.gradient_A.square().sum()).item()
        )
        return statistics.gradient_B.norm(dim=-2)

    try:
        model = lora(target_modules=["layers.0.self_attn.q_proj"])
        config = PruneConfig(target_rank=6, criterion="spy", interval=2, warmup_steps=0)
        trainer(model, tmp_path, PruningCallback(config), max_grad_norm=1e-4).train()
    finally:
        unregister("spy")
    assert [value**0.5 for value in seen] == pytest.approx([1e-4], rel=2e-2)


class PowerCutError(RuntimeError):
    """The machine went down."""


class GoesDown(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise PowerCutError


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_training_that_is_resumed_ends_as_if_it_had_not_been_interrupted(
    lora, tmp_path, elsewhere
):
    saving = {"save_strategy": "steps", "save_steps": 5, "gradient_accumulation_steps": 2}
    data = [{"input_ids": row, "labels": row} for row in ids(48)]
    model, other, again = lora(), lora(), lora(zero_B=True)
    other.load_state_dict(model.state_dict())
    trainer(model, tmp_path / "whole", PruningCallback(CONFIG), data=data, **saving).train()
    with pytest.raises(PowerCutError):
        trainer(
            other, tmp_path / "run", PruningCallback(CONFIG), GoesDown(), data=data, **saving
        ).train()
    checkpoint = tmp_path / "run" / "checkpoint-5"
    if elsewhere:
        checkpoint = checkpoint.rename(tmp_path / "copied")
    callback = PruningCallback(CONFIG, resume_from=checkpoint if elsewhere else None)
    trainer(again, tmp_path / "run", callback, data=data, **saving).train(
        resume_from_checkpoint=str(checkpoint)
    )
    assert [event.step for event in callback.pruner.events] == [4, 6]
    for mine, expected in zip(find_lora_modules(again), find_lora_modules(model), strict=True):
        assert mine.rank == expected.rank == 4
        assert torch.equal(mine.B, expected.B)
        assert torch.equal(mine.A, expected.A)


def ranks_on_disk(checkpoint) -> set[int]:
    config = json.loads((checkpoint / "adapter_config.json").read_text())
    tensors = load_file(checkpoint / "adapter_model.safetensors")
    assert config["rank_pattern"] == {}
    return {config["r"], *(t.shape[0] for name, t in tensors.items() if "lora_A" in name)}


@pytest.mark.parametrize("better", ["earlier", "later"])
def test_the_best_model_is_the_best_of_those_after_the_last_event(lora, tmp_path, better):
    saving = {"save_strategy": "steps", "save_steps": 2, "learning_rate": 0.1}
    best = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    seen = {}

    class Keep(TrainerCallback):
        def on_save(self, args, state, control, model, **kwargs):
            B = find_lora_modules(model)[0].B
            seen[state.global_step] = B[:, B.any(dim=0)].detach().clone()

    class Judge(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            metrics["eval_loss"] = state.global_step * (1 if better == "earlier" else -1)

    model = lora()
    callback = PruningCallback(CONFIG)
    run = trainer(
        model,
        tmp_path,
        callback,
        Judge(),
        Keep(),
        greater_is_better=False,
        max_steps=10,
        **best,
        **saving,
    )
    run.train()
    # Events are at steps 4 and 6, the latter before the checkpoint of step 6 is written.
    assert run.state.best_global_step == (6 if better == "earlier" else 10)
    module = find_lora_modules(model)[0]
    assert module.rank == 4
    assert torch.equal(module.B, seen[6 if better == "earlier" else 10])
    assert not torch.equal(seen[6], seen[10])
    assert ranks_on_disk(tmp_path / "checkpoint-10") == {4}
    assert ranks_on_disk(tmp_path / "checkpoint-8") == {8}


@pytest.mark.parametrize("scope", ["module", "global"])
def test_the_last_checkpoint_is_as_small_as_the_adapter_in_memory(lora, tmp_path, scope):
    model = lora()
    config = PruneConfig(target_rank=4, interval=2, per_event=2, warmup_steps=2, scope=scope)
    trainer(model, tmp_path, PruningCallback(config), save_strategy="steps", save_steps=3).train()
    again = peft.PeftModel.from_pretrained(llama(), tmp_path / "checkpoint-8").eval()
    tokens = ids()
    assert {m.name: m.rank for m in find_lora_modules(again)} == {
        m.name: m.rank for m in find_lora_modules(model)
    }
    torch.testing.assert_close(
        again(input_ids=tokens).logits, model.eval()(input_ids=tokens).logits, rtol=0, atol=1e-6
    )


class Killed(TrainerCallback):
    """Stops where the trainer has written a checkpoint and deleted the one before."""

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == 6:
            raise PowerCutError


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_a_training_that_is_killed_right_after_a_checkpoint_can_be_resumed(
    lora, tmp_path, strategy
):
    data = [{"input_ids": row, "labels": row} for row in ids(6)]  # three steps an epoch
    saving = {"save_strategy": strategy, "save_steps": 3, "save_total_limit": 1}
    callback = PruningCallback(CONFIG)
    with pytest.raises(PowerCutError):  # before the other callback's turn
        trainer(lora(), tmp_path, Killed(), callback, data=data, **saving).train()
    callback.pruner.close()
    assert [p.name for p in tmp_path.glob("checkpoint-*")] == ["checkpoint-6"]
    # A training that was begun again in the same folder writes over what an earlier one left.
    again = PruningCallback(CONFIG)
    with pytest.raises(PowerCutError):
        trainer(lora(), tmp_path, Killed(), again, data=data, **saving).train()
    again.pruner.close()
    model = lora(zero_B=True)
    trainer(model, tmp_path, PruningCallback(CONFIG), data=data, **saving).train(
        resume_from_checkpoint=True
    )
    assert {m.rank for m in find_lora_modules(model)} == {4}


def test_the_state_of_another_run_in_the_same_folder_is_refused(lora, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 3}
    config = PruneConfig(target_rank=4, criterion="adalora2023", interval=2, warmup_steps=2)
    trainer(lora(), tmp_path / "run", PruningCallback(config), **saving).train()
    kept = (tmp_path / "run" / "checkpoint-3").rename(tmp_path / "checkpoint-3")
    trainer(lora(), tmp_path / "run", PruningCallback(config), **saving, seed=1).train()
    with pytest.raises(ConfigurationError, match="resume_from=FOLDER"):
        trainer(lora(), tmp_path / "run", PruningCallback(config), **saving).train(
            resume_from_checkpoint=str(kept)
        )
    callback = PruningCallback(config, resume_from=kept)
    trainer(lora(), tmp_path / "run", callback, **saving).train(resume_from_checkpoint=str(kept))


@pytest.mark.parametrize("first", [False, True])
def test_ranks_and_events_are_in_the_trainers_log(lora, tmp_path, first):
    reported = []

    class Reporter(TrainerCallback):
        def on_log(self, args, state, control, logs, **kwargs):
            reported.append(dict(logs))

    callback = PruningCallback(CONFIG)
    run = trainer(lora(), tmp_path, Reporter(), *([] if first else [callback]), logging_steps=1)
    if first:
        callback.add_to(run)
    run.train()
    history = [entry for entry in run.state.log_history if "loss" in entry]
    assert [entry["pruning/rank"] for entry in history] == [8, 8, 8, 6, 6, 4, 4, 4]
    assert [entry["pruning/events"] for entry in history] == [0, 0, 0, 1, 1, 2, 2, 2]
    assert all(0 < entry["pruning/learning_rate_left"] < 1 for entry in history)
    assert ("pruning/rank" in reported[0]) == first


def test_a_checkpoint_without_the_pruners_state_is_refused(lora, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 5}
    with pytest.raises(PowerCutError):
        trainer(lora(), tmp_path, GoesDown(), **saving).train()
    callback = PruningCallback(CONFIG)
    with pytest.raises(ConfigurationError, match=r"checkpoint-5.* .*start from the beginning"):
        trainer(lora(), tmp_path, callback, **saving).train(resume_from_checkpoint=True)
    assert callback.pruner._hooks == []


def test_stopping_early_is_an_error(lora, tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step >= 5

    with pytest.raises(PruningIncompleteError, match=r"1 of 2 .* after 5 of 8"):
        trainer(lora(), tmp_path, PruningCallback(CONFIG), Stop()).train()


def test_too_short_a_training_is_an_error_before_it_starts(lora, tmp_path):
    model = lora()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ConfigurationError, match="training has 5 steps"):
        trainer(model, tmp_path, PruningCallback(CONFIG), max_steps=5).train()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_an_optimizer_that_is_none_of_torch_is_refused(lora):
    from prunedlora.training.optimizers import unwrap_optimizer

    with pytest.raises(ConfigurationError, match="Linear is not a torch"):
        unwrap_optimizer(nn.Linear(1, 1))


@pytest.mark.parametrize(("kind", "said"), [("linear", 1), ("constant", 0)])
def test_the_callback_knows_by_itself_what_the_last_event_leaves(
    lora, tmp_path, caplog, kind, said
):
    config = PruneConfig(target_rank=6, criterion="magnitude", interval=8, warmup_steps=0)
    trainer(lora(), tmp_path, PruningCallback(config), lr_scheduler_type=kind).train()
    records = [r for r in caplog.records if r.name == "prunedlora.training.learning_rate"]
    assert len(records) == said
