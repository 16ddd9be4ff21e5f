"""Does an exported adapter, opened by plain PEFT in another process, give the logits that it had in memory?

``python -m experiments.jobs.reload CONFIG.json RECORD.json FOLDER RESULT.json`` opens the adapter in FOLDER, whose run
wrote RECORD.json, and writes that record, with the largest difference of logits, to RESULT.json.
"""

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from experiments.finetuning.models import load_base
from experiments.settings.jobs import RunConfig
from experiments.settings.validation import read_settings
from experiments.tasks import TASKS
from theory.records import to_json, write_atomically

#: Largest difference of logits allowed in float32 on the CPU.
TOLERANCE = 1e-5
PROBES = 8
#: In the folder of an adapter: some inputs, and the logits that they gave before it was written.
PROBE = "probe.safetensors"


@torch.no_grad()
def write_probe(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, config: RunConfig, folder: Path
) -> None:
    """Logits of a model on the first test examples, computed on the CPU, into the folder of its adapter."""
    device = next(model.parameters()).device
    prompts = [e.prompt for e in TASKS[config.task].test(PROBES)]
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    model.to("cpu").eval()
    logits = model(**inputs).logits
    model.to(device)
    tensors = {**inputs, "logits": logits}
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / PROBE)


@torch.no_grad()
def check_reload(config: RunConfig, folder: Path) -> float:
    """Largest difference of logits between the probe in a folder and what plain PEFT makes of the adapter there.

    Raises:
        RuntimeError: it exceeds the tolerance of float32.
    """
    probe = load_file(folder / PROBE)
    base, _ = load_base(config)
    model = PeftModel.from_pretrained(base, folder).eval()
    logits = model(**{k: v for k, v in probe.items() if k != "logits"}).logits
    difference = (logits - probe["logits"]).abs().max().item()
    if config.dtype == "float32" and not difference <= TOLERANCE:
        raise RuntimeError(
            f"{folder}: reloaded logits differ by {difference:.2e}, more than {TOLERANCE:.0e}"
        )
    return difference


def main(arguments: list[str]) -> None:
    """Check the adapter of a run, and write the run's record with the difference."""
    config_file, record_file, folder, result_file = (Path(argument) for argument in arguments)
    config = read_settings(RunConfig, config_file)
    record = json.loads(record_file.read_text())
    record["result"]["reload_max_difference"] = check_reload(config, folder)
    write_atomically(result_file, to_json(record))


if __name__ == "__main__":
    main(sys.argv[1:])
