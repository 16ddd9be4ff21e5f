import peft
import pytest
import torch
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
    settings = {"max_steps": 8, "save_strategy": "no", "report_to": [], "use_cpu": True, **settings}
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        disable_tqdm=True,
        learning_rate=1e-3,
        **settings,
    )
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=data,
        eval_dataset=data[:4],
        callbacks=list(callbacks),
    )


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


class OverfitsCallback(TrainerCallback):
    """The first evaluation is the best."""

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        metrics["eval_loss"] = state.global_step


def test_a_best_model_from_before_an_event_is_refused_and_the_last_checkpoint_still_holds_the_final_one(
    lora, tmp_path
):
    saving = {"save_strategy": "steps", "save_steps": 2}
    best = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    with pytest.raises(ConfigurationError, match="resume from the last checkpoint"):
        trainer(
            lora(), tmp_path, PruningCallback(CONFIG), OverfitsCallback(), **best, **saving
        ).train()
    model = lora(zero_B=True)
    trainer(model, tmp_path, PruningCallback(CONFIG), **saving).train(resume_from_checkpoint=True)
    assert {m.rank for m in find_lora_modules(model)} == {4}


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
