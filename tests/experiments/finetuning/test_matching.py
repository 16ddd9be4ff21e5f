"""A student that matches a teacher with a planted change."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers.modeling_outputs import SequenceClassifierOutput

from experiments.finetuning.data import training_batches
from experiments.finetuning.evaluate import evaluate
from experiments.finetuning.matcher import distances
from experiments.finetuning.matching import states_fisher, teacher_and_base, unexplained
from experiments.finetuning.models import load_base
from experiments.finetuning.processes import processes
from experiments.jobs.reload import check_reload
from experiments.jobs.run import run
from experiments.tasks import TASKS
from prunedlora.statistics.targets import IGNORED
from tests.experiments.finetuning.runs import BASE

MODULES = ("query", "value")
CONFIG = replace(
    BASE,
    model="tiny_bert",
    task="planted_flat",
    target_modules=MODULES,
    initial_rank=8,
    target_rank=8,
    max_length=12,
    learning_rate=0.01,
)
EXAMPLES = TASKS["planted_flat"].test(24)


@pytest.fixture
def student():
    return load_base(CONFIG)


def test_the_untuned_model_explains_nothing_and_the_teacher_everything(student):
    model, tokenizer = student
    teacher, _ = teacher_and_base("planted_flat", "tiny_bert", MODULES, torch.device("cpu"))
    assert unexplained(model, tokenizer, CONFIG, EXAMPLES).mean().item() == pytest.approx(1.0)
    assert unexplained(teacher, tokenizer, CONFIG, EXAMPLES).max().item() < 1e-10


def test_an_adapter_that_holds_the_change_is_the_teacher(student):
    model, tokenizer = student
    teacher, base = teacher_and_base("planted_flat", "tiny_bert", MODULES, torch.device("cpu"))
    adapted = get_peft_model(model, LoraConfig(r=32, lora_alpha=32, target_modules=list(MODULES)))
    changes = dict(teacher.named_parameters())
    with torch.no_grad():
        for name, module in adapted.named_modules():
            if name.endswith(MODULES):
                layer = name.removeprefix("base_model.model.")
                change = changes[f"{layer}.weight"] - base.get_parameter(f"{layer}.weight")
                U, S, Vh = torch.linalg.svd(change, full_matrices=False)
                module.lora_B["default"].weight.copy_(U * S)
                module.lora_A["default"].weight.copy_(Vh)
    assert unexplained(adapted, tokenizer, CONFIG, EXAMPLES).mean().item() < 1e-8
    # Rank 8 of the 32 equal directions holds a quarter of the change.
    for module in adapted.modules():
        if hasattr(module, "lora_B") and "default" in module.lora_B:
            module.lora_B["default"].weight.data[:, 8:] = 0
    assert 0.3 < unexplained(adapted, tokenizer, CONFIG, EXAMPLES).mean().item() < 1.0


def test_padding_has_no_label_and_no_share_in_the_loss(student):
    model, tokenizer = student
    batch = next(training_batches(CONFIG, tokenizer, processes()))
    padded = batch["attention_mask"] == 0
    assert padded.any()
    assert ((batch["labels"] == IGNORED).all(dim=-1) == padded).all()
    loss = model(**batch).loss
    batch["labels"] = batch["labels"].masked_fill((batch["labels"] == IGNORED), IGNORED)
    torch.manual_seed(0)
    longer = {
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 3)),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 3)),
        "labels": torch.nn.functional.pad(batch["labels"], (0, 0, 0, 3), value=IGNORED),
    }
    assert model(**longer).loss.item() == pytest.approx(loss.item(), rel=1e-5)


def test_a_score_is_the_mean_over_examples_whatever_the_batch(student):
    model, tokenizer = student
    score = evaluate(model, tokenizer, CONFIG, EXAMPLES)
    alone = evaluate(model, tokenizer, replace(CONFIG, eval_batch_size=5), EXAMPLES)
    assert score.unexplained == pytest.approx(sum(score.losses) / len(score.losses), abs=1e-5)
    assert alone.losses == pytest.approx(score.losses, abs=1e-4)


@pytest.mark.parametrize(
    "method", [{"method": "lora"}, {"method": "prune", "criterion": "svd", "target_rank": 2}]
)
def test_a_run_learns_and_its_adapter_reloads(tmp_path, method):
    config = replace(CONFIG, steps=30, interval=2, warmup_steps=2, per_event=3, **method)
    result = run(config, tmp_path / "adapter")
    assert result["unexplained"] < 0.95
    assert result["train_loss"][-1] < result["train_loss"][0]
    assert result["rank"] == config.target_rank
    assert check_reload(config, tmp_path / "adapter") < 1e-5


class Given(torch.nn.Module):
    """A model whose hidden states are its parameters."""

    def __init__(self):
        super().__init__()
        self.states = torch.nn.Parameter(torch.randn(1, 3, 4, dtype=torch.float64))

    def forward(self, input_ids):
        return SequenceClassifierOutput(logits=self.states)


def test_the_fisher_matrix_of_hidden_states_is_the_hessian_of_the_loss():
    """Of a Gaussian's mean it is the same for every state; signs have exactly its diagonal as their squares."""
    model = Given()
    labels = torch.randn(1, 3, 4, dtype=torch.float64)
    labels[0, 2] = IGNORED
    hessian = torch.autograd.functional.hessian(
        lambda states: distances(states, labels).mean(), model.states.detach()
    ).reshape(12, 12)
    fisher = states_fisher(model)
    generator = torch.Generator().manual_seed(0)
    second = torch.zeros(12, 12, dtype=torch.float64)
    for _ in range(2_000):
        model.zero_grad()
        fisher({"input_ids": torch.zeros(1, 3), "labels": labels}, generator).backward()
        gradient = model.states.grad.flatten()
        second += gradient.outer(gradient) / 2_000
    torch.testing.assert_close(second.diagonal(), hessian.diagonal())
    assert hessian.diagonal()[:8].unique().numel() == 1
    assert (second - hessian).abs().max() < 0.15 * hessian.max()
