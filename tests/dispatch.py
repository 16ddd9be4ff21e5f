"""What reaches the device, counted without one: operations, and those among them that the host waits for."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

#: Operations whose outcome, or its shape, the host must know before it can go on.
WAITING = (
    "_local_scalar_dense",
    "nonzero",
    "equal",
    "masked_select",
    "unique",
    "_unique2",
    "is_nonzero",
)
#: Operations that only look at memory in another way, or not at all.
FREE = (
    "view",
    "t",
    "transpose",
    "unsqueeze",
    "squeeze",
    "expand",
    "slice",
    "select",
    "unbind",
    "detach",
)
FREE += ("_unsafe_view", "promote_types")


class Operations(TorchDispatchMode):
    """Counts operations as `count` and waits, transfers of whole tensors included, as `waits`."""

    def __init__(self, patched: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.count = self.waits = 0
        for name in ("tolist", "cpu", "numpy"):
            patched.setattr(Tensor, name, self._counted(getattr(Tensor, name)))

    def _counted(self, method: Any) -> Any:
        def call(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.waits += 1
            return method(tensor, *args, **kwargs)

        return call

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        by_mask = name in ("index", "index_put_", "index_put") and any(
            t is not None and t.dtype is torch.bool for t in args[1]
        )
        self.waits += name in WAITING or by_mask
        self.count += name not in FREE
        return function(*args, **(kwargs or {}))
