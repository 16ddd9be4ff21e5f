"""What refining gains after the cut: on a planted task, the smaller adapter learns the larger one's hidden states.

``python -m experiments.jobs.refined CONFIG.json RESULT.json ADAPTER_FOLDER`` measures one adapter.  No label is seen:
the larger adapter says what is to be matched, as in `prunedlora.refine_adapter`.
"""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from peft import PeftModel
from torch import Tensor
from tqdm import tqdm

from experiments.finetuning.calibration import batches_of, statistics_of
from experiments.finetuning.matcher import distances
from experiments.finetuning.matching import unexplained
from experiments.finetuning.models import load_base
from experiments.jobs.record import write_record
from experiments.settings.jobs import Refined, RunConfig
from experiments.settings.validation import validated
from experiments.tasks import TASKS
from prunedlora.adapters.modules import find_lora_modules
from prunedlora.criteria import get_criterion
from prunedlora.ranks.adapter import reduce_adapter
from prunedlora.ranks.refinement import Refinement, distil

Batch = dict[str, Tensor]


def measure(config: Refined, run: RunConfig, adapter: Path) -> dict[str, Any]:
    """Increases of the test loss by the cut alone, and by the cut and what is refined after it."""
    base, tokenizer = load_base(run)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    large = PeftModel.from_pretrained(base, adapter, is_trainable=True).to(device).eval()
    task = TASKS[run.task]
    # Statistics and training see the same examples; what is held out chooses rate and step.
    examples = task.train(config.calibration_examples + config.held_out, run.seed)
    seen = batches_of(tokenizer, run, examples[: config.calibration_examples], device)
    held_out = batches_of(tokenizer, run, examples[config.calibration_examples :], device)
    test = task.test(run.test_examples)
    unpruned = unexplained(large, tokenizer, run, test)
    # The larger adapter never changes, so that what it gives is computed once.
    aims = {id(batch): _states(large, batch) for batch in (*seen, *held_out)}

    rows = []
    for name in config.criteria:
        needs = get_criterion(name).needs
        statistics = statistics_of(large, run, needs, seen, run.seed) if needs else None
        for rank in tqdm(config.ranks, desc=f"refine {name}"):
            small = copy.deepcopy(large)
            reduce_adapter(small, rank, name, statistics)
            cut = unexplained(small, tokenizer, run, test) - unpruned
            found = _refine(small, seen, held_out, aims, config.steps)
            after = unexplained(small, tokenizer, run, test) - unpruned
            rows.append(
                {
                    "criterion": name,
                    "rank": rank,
                    "cut_increase": float(cut.mean()),
                    "refined_increase": float(after.mean()),
                    "refined_standard_error": float(after.std() / len(after) ** 0.5),
                    "held_out_before": found.before,
                    "held_out_after": found.after,
                    "step": found.step,
                    "learning_rate": found.learning_rate,
                }
            )
    return {"unpruned": float(unpruned.mean()), "rows": rows}


def _refine(
    small: torch.nn.Module,
    seen: list[Batch],
    held_out: list[Batch],
    aims: dict[int, Tensor],
    steps: int,
) -> Refinement:
    """Train the smaller adapter to give the hidden states that are aimed at."""

    def predict(batch: Batch) -> tuple[Tensor, Tensor]:
        states = small(**{k: v for k, v in batch.items() if k != "labels"}).logits
        return states, batch["attention_mask"].bool()

    parameters = [p for module in find_lora_modules(small) for p in (module.B, module.A)]
    return distil(
        small,
        parameters,
        lambda batch: aims[id(batch)],
        predict,
        seen,
        held_out,
        steps,
        divergence=_distance,
    )


def _distance(own: Tensor, aim: Tensor, counted: Bool[Tensor, "n t"]) -> Tensor:
    return distances(own[counted].unsqueeze(0), aim[counted].unsqueeze(0)).mean()


@torch.no_grad()
def _states(model: torch.nn.Module, batch: Batch) -> Tensor:
    states: Tensor = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
    return states


def main(arguments: list[str]) -> None:
    """Read the configuration, measure, write the result."""
    config_file, result_file, adapter = (Path(argument) for argument in arguments)
    values = json.loads(config_file.read_text())
    config = validated(Refined, values["refined"], f"{config_file.name}: refined")
    run = validated(RunConfig, values["run"], f"{config_file.name}: run")
    write_record(result_file, values, measure(config, run, adapter))


if __name__ == "__main__":
    main(sys.argv[1:])
