"""Tasks: where the examples come from and how an answer is read off a generated text."""

from experiments.tasks.base import Example, Task
from experiments.tasks.hub_math import METAMATH_GSM8K
from experiments.tasks.math import ARITHMETIC, GSM_SYMBOLIC

TASKS: dict[str, Task] = {task.name: task for task in (ARITHMETIC, GSM_SYMBOLIC, METAMATH_GSM8K)}

__all__ = ["TASKS", "Example", "Task"]
