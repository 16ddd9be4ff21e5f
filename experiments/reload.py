"""Does an exported adapter, opened by plain PEFT in a new process, give the logits of the model in memory?

``python -m experiments.reload CONFIG_JSON ADAPTER_FOLDER PROBE_FILE`` prints the largest absolute difference.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from experiments.config import RunConfig, build
from experiments.models import load_base
from experiments.tasks import TASKS

#: Largest difference of logits allowed in float32 on the CPU.
TOLERANCE = 1e-5
PROBES = 8


@torch.no_grad()
def check_reload(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, config: RunConfig, folder: Path) -> float:
    """Largest difference of logits between memory and a new process, both on the CPU.

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
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "probe.safetensors"
        save_file({k: v.contiguous() for k, v in {**inputs, "logits": logits}.items()}, file)
        command = [sys.executable, "-m", "experiments.reload", json.dumps(asdict(config)), str(folder), str(file)]
        out = subprocess.run(command, capture_output=True, text=True)
    if out.returncode:
        raise RuntimeError(f"the exported adapter {folder} does not load:\n{out.stderr[-2000:]}")
    difference = float(out.stdout.split()[-1])
    if config.dtype == "float32" and not difference <= TOLERANCE:
        raise RuntimeError(f"{folder}: reloaded logits differ by {difference:.2e}, more than {TOLERANCE:.0e}")
    return difference


@torch.no_grad()
def main() -> None:
    """The part that runs in the new process."""
    config, folder, file = sys.argv[1:]
    base, _ = load_base(build(RunConfig, json.loads(config), "configuration"))
    model = PeftModel.from_pretrained(base, folder).eval()
    probe = load_file(file)
    expected = probe.pop("logits")
    print((model(**probe).logits - expected).abs().max().item())


if __name__ == "__main__":
    main()
