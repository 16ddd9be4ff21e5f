"""Table 2: the most memory that training takes by each method, alone in a process of its own.

``python -m experiments.table2_memory CONFIG.json RESULT.json`` trains and does nothing else.
"""

import json
import sys
from collections import deque
from dataclasses import asdict
from pathlib import Path

from experiments.config import RunConfig, build
from experiments.machine import peak_memory, write_record
from experiments.processes import processes
from experiments.table2 import training


def main(arguments: list[str]) -> None:
    """Read the configuration, train, write the result."""
    config_file, result_file = map(Path, arguments)
    config, alone = build(RunConfig, json.loads(config_file.read_text()), config_file.name), processes()
    deque(training(config, alone, []), maxlen=0)
    write_record(result_file, asdict(config), {"peak_memory_bytes": peak_memory(alone.device)})


if __name__ == "__main__":
    main(sys.argv[1:])
