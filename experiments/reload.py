"""Does an exported adapter, opened by plain PEFT in a new process, give the logits of the model in memory?

``python -m experiments.reload CONFIG_JSON ADAPTER_FOLDER PROBE_FILE`` prints the largest absolute difference.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from experiments.config import RunConfig, build
from experiments.models import load_base
from experiments.processes import alone
from experiments.tasks import TASKS

#: Largest difference of logits allowed in float32 on the CPU.
TOLERANCE = 1e-5
PROBES = 8


@torch.no_grad()
def check_reload(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, config: RunConfig, folder: Path, *, new_process: bool
) -> float:
    """Largest difference of logits between memory and what plain PEFT makes of the files, both on the CPU.

    Raises:
        RuntimeError: it exceeds the tolerance of float32, or the new process failed.
    """
    device = next(model.parameters()).device
    prompts = [e.prompt for e in TASKS[config.task].test(PROBES)]
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    model.to("cpu").eval()
    logits = model(**inputs).logits
    model.to(device)
    probe = {k: v.contiguous() for k, v in {**inputs, "logits": logits}.items()}
    found = _ask(config, folder, probe) if new_process else difference(config, folder, probe)
    if config.dtype == "float32" and not found <= TOLERANCE:
        raise RuntimeError(f"{folder}: reloaded logits differ by {found:.2e}, more than {TOLERANCE:.0e}")
    return found


def difference(config: RunConfig, folder: Path, probe: dict[str, Tensor]) -> float:
    """Largest difference of the logits in `probe` from those of the base model with the adapter in `folder`."""
    base, _ = load_base(config)
    model = PeftModel.from_pretrained(base, folder).eval()
    inputs = {k: v for k, v in probe.items() if k != "logits"}
    return (model(**inputs).logits - probe["logits"]).abs().max().item()


def _ask(config: RunConfig, folder: Path, probe: dict[str, Tensor]) -> float:
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "probe.safetensors"
        save_file(probe, file)
        command = [sys.executable, "-m", "experiments.reload", json.dumps(asdict(config)), str(folder), str(file)]
        out = subprocess.run(command, capture_output=True, text=True, env=alone(dict(os.environ)))
    if out.returncode:
        raise RuntimeError(f"the exported adapter {folder} does not load:\n{out.stderr[-2000:]}")
    return float(out.stdout.split()[-1])


@torch.no_grad()
def main() -> None:
    """The part that runs in the new process."""
    config, folder, file = sys.argv[1:]
    print(difference(build(RunConfig, json.loads(config), "configuration"), Path(folder), load_file(file)))


if __name__ == "__main__":
    main()
