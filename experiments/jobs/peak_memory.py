"""Table 2: the most memory that training takes by each method, alone in a process of its own.

``python -m experiments.jobs.peak_memory CONFIG.json RESULT.json`` trains and does nothing else.
"""

import sys
from collections import deque
from dataclasses import asdict
from pathlib import Path

from experiments.finetuning.processes import processes
from experiments.jobs.record import peak_memory, write_record
from experiments.jobs.step_cost import training
from experiments.settings.jobs import RunConfig
from experiments.settings.validation import read_settings


def main(arguments: list[str]) -> None:
    """Read the configuration, train, write the result."""
    config_file, result_file = map(Path, arguments)
    config = read_settings(RunConfig, config_file)
    alone = processes()
    deque(training(config, alone, []), maxlen=0)
    write_record(result_file, asdict(config), {"peak_memory_bytes": peak_memory(alone.device)})


if __name__ == "__main__":
    main(sys.argv[1:])
