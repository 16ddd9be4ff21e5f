"""Nothing is compared where the unpruned adapter has not learnt the task."""

from typing import Any


def check_learnt(untuned: dict[str, Any], unpruned: dict[str, Any], least_gain: float) -> None:
    """Stop if the unpruned adapter is not far enough above the untuned model.

    Args:
        untuned: result of the untuned model.
        unpruned: result of LoRA at the initial rank.
        least_gain: points of accuracy that it must have gained.

    Raises:
        SystemExit: it has not.
    """
    gain = 100 * (unpruned["accuracy"] - untuned["accuracy"])
    if gain < least_gain:
        raise SystemExit(
            f"the unpruned adapter is {gain:+.1f} points from the untuned model, less than {least_gain}: it has not "
            "learnt the task, and nothing can be compared; see steps and learning_rates of the preset"
        )
