"""Tasks: where the examples come from and how an answer is read off a generated text."""

from experiments.tasks.base import Example, Task
from experiments.tasks.code import HUMAN_EVAL
from experiments.tasks.hub_code import HUB_CODE
from experiments.tasks.hub_glue import GLUE
from experiments.tasks.hub_math import METAMATH_GSM8K
from experiments.tasks.math import ARITHMETIC, GSM_SYMBOLIC
from experiments.tasks.planted import PLANTED_DECAYING, PLANTED_FLAT
from experiments.tasks.ratings import EDITORIALS, MOVIE_REVIEWS, PRODUCT_REVIEWS, TWEETS

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        ARITHMETIC,
        GSM_SYMBOLIC,
        METAMATH_GSM8K,
        HUMAN_EVAL,
        HUB_CODE,
        *GLUE,
        MOVIE_REVIEWS,
        PRODUCT_REVIEWS,
        EDITORIALS,
        TWEETS,
        PLANTED_FLAT,
        PLANTED_DECAYING,
    )
}

__all__ = ["TASKS", "Example", "Task"]
