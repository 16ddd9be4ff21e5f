"""Where tensors are computed."""

import torch

from prunedlora.errors import ConfigurationError


def chosen_device(name: str) -> torch.device:
    """The device of a name; ``"auto"`` takes a GPU if there is one.

    Raises:
        ConfigurationError: there is none of that name here.

    >>> chosen_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()  # a name alone says nothing
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).strip().splitlines() or ["no reason is given"])[0][:200]
        raise ConfigurationError(
            f"device {name!r} cannot be used here ({reason}); use cpu, or leave it out"
        ) from error
    return device
