"""Language understanding with a language model, which answers by going on with the likelier label."""

from dataclasses import replace

from experiments.reporting.table import Table
from experiments.settings.jobs import RunConfig
from experiments.settings.preset import Language
from experiments.tables.labels import LORA, SKYLINE
from experiments.tables.rows import comparisons, finetuning_rows, schedule_note
from experiments.tables.tuning import Tune


def on_first_task(settings: Language) -> RunConfig:
    """A run on the task on which learning rates are chosen, at the largest initial rank."""
    return replace(settings.run, task=settings.tasks[0], initial_rank=max(settings.initial_ranks))


def table(settings: Language, tune: Tune) -> Table:
    """The tasks of Table 3, from the largest initial rank."""
    run = on_first_task(settings)
    columns = {task: replace(run, task=task) for task in settings.tasks}
    return Table(
        "language",
        f"Language understanding with a language model, rank {run.initial_rank} to {settings.target_rank}",
        finetuning_rows(settings, columns, tune, paper={}),
        comparisons(settings),
        f"The paper has an encoder-decoder only, see Table 3. {schedule_note(settings, run)}",
        gate=(LORA, SKYLINE),
    )
