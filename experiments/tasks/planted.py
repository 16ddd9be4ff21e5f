"""Tasks in which rank matters by construction: match a teacher that is the base model plus a change of known rank.

The sentences are those of the movie reviews, whose ratings play no part.  What the teacher adds to every adapted layer
is drawn once, so that every run of a task has the same teacher.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.tasks.base import Example, PlantedChange, Task
from experiments.tasks.ratings import MOVIE_REVIEWS

#: All directions of the change weigh the same: an adapter of lower rank must leave some of them out.
FLAT = PlantedChange(rank=32, decay=0.0, size=0.3, seed=0)
#: The first directions weigh most: an adapter of lower rank leaves little out.
DECAYING = PlantedChange(rank=64, decay=1.0, size=0.3, seed=0)


def draw_change(
    change: PlantedChange, weight: Float[Tensor, "d_out d_in"], generator: torch.Generator
) -> Float[Tensor, "d_out d_in"]:
    """What a planted change adds to one weight.

    Args:
        change: its rank, its singular values up to a factor, and its norm relative to the weight's.
        weight: of the layer.
        generator: of its singular vectors, on the CPU.

    >>> change = draw_change(FLAT, torch.eye(64), torch.Generator().manual_seed(0))
    >>> int(torch.linalg.matrix_rank(change)), round(float(change.norm() / torch.eye(64).norm()), 4)
    (32, 0.3)
    """
    left, right = (
        torch.linalg.qr(torch.randn(side, change.rank, generator=generator)).Q
        for side in weight.shape
    )
    values = torch.arange(1, change.rank + 1, dtype=torch.float32) ** -change.decay
    direction = (left * values) @ right.mT
    return direction * (change.size * weight.norm().cpu() / direction.norm())


def _task(name: str, change: PlantedChange) -> Task:
    def unlabelled(examples: list[Example]) -> list[Example]:
        return [Example(e.text, "", "", text=e.text) for e in examples]

    return Task(
        name,
        test=lambda n: unlabelled(MOVIE_REVIEWS.test(n)),
        validation=lambda n: unlabelled(MOVIE_REVIEWS.validation(n)),
        train=lambda n, seed: unlabelled(MOVIE_REVIEWS.train(n, seed)),
        read_answer=lambda text: "",
        max_new_tokens=0,
        planted=change,
    )


PLANTED_FLAT = _task("planted_flat", FLAT)
PLANTED_DECAYING = _task("planted_decaying", DECAYING)
