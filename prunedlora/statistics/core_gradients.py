r"""Gradients of single samples with respect to the core S of B S A: :math:`g = \sum_t u_t z_t^\top`, r x r.

They are kept one by one, since no average of them is enough.  Of a high rank only what concerns its best components
can be: with P (r, c) and Q (c, r), :math:`P^\top g Q^\top` is the gradient with respect to Y in B P Y Q A.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from prunedlora.distributed import gather_over_processes, share_of_this_process

#: Core gradients kept for each module, the latest, by their number and by the bytes that they take.
MAX_SAMPLES = 2048
MAX_BYTES = 2**26
#: Components within which the core gradients of a module of higher rank are measured: 32 KB a sample, in bfloat16.
MAX_CORE = 128

#: P (r, c) and Q (c, r).
Space = tuple[Float[Tensor, "r c"], Float[Tensor, "c r"]]


class CoreGradients:
    """The latest core gradients of a module.

    Args:
        space: P and Q, where they are kept within a space only, in bfloat16, each with the trace of g.
    """

    def __init__(self, space: Space | None = None) -> None:
        self._space = space
        self._kept: list[Tensor] = []
        self._traces: list[Tensor] = []

    def add(self, z: Float[Tensor, "n tokens r"], u: Float[Tensor, "n tokens r"]) -> None:
        """Take in the samples of one pass, and drop passes that are no longer among the latest."""
        if self._space is None:
            self._kept.append(u.mT @ z)
        else:
            P, Q = (t.to(z.dtype) for t in self._space)
            # Each token is brought into the small space first: r x r is never formed.
            self._kept.append(((u @ P).mT @ (z @ Q.mT)).bfloat16())
            self._traces.append((u * z).sum(dim=(1, 2)))
        while sum(len(g) for g in self._kept[1:]) >= self._most():
            self._kept.pop(0)
            self._traces[:1] = []

    def samples(self) -> Float[Tensor, "n c c"] | None:
        """The core gradients, over all processes; None if there are none."""
        return self.fields().get("core_gradients")

    def fields(self) -> dict[str, Tensor]:
        """The fields of `Statistics`, over all processes; nothing if there are no samples.

        Samples with NaN or infinity are dropped here, since choosing them waits for the device.
        """
        if not self._kept:
            return {}
        # Put together in place of the parts, so that nothing is held twice.
        self._kept = [torch.cat(self._kept)]
        most = self._most()
        finite = torch.isfinite(self._kept[0][-most:]).flatten(1).all(dim=1)
        chosen = [self._kept[0][-most:]]
        if self._space is not None:
            self._traces = [torch.cat(self._traces)]
            chosen.append(self._traces[0][-most:])
        if not finite.all():
            chosen = [t[finite] for t in chosen]
        found = dict(
            zip(
                ("core_gradients", "core_traces"),
                map(gather_over_processes, chosen),
                strict=False,
            )
        )
        if self._space is not None:
            found["core_columns"], found["core_rows"] = self._space
        return found

    def restore(self, samples: Float[Tensor, "n r r"]) -> None:
        """Start from what `samples` gave, shared out again among the processes."""
        self._kept = [share_of_this_process(samples)]

    def kept(self) -> tuple[list[Tensor], list[Tensor]]:
        """What is kept now, in parts that never change; `keep` goes back to it."""
        return list(self._kept), list(self._traces)

    def keep(self, kept: tuple[list[Tensor], list[Tensor]]) -> None:
        """Go back to what `kept` gave; two empty lists start again."""
        self._kept, self._traces = (list(parts) for parts in kept)

    def _most(self) -> int:
        """How many samples are kept at most."""
        g = self._kept[-1]
        size = g.shape[1] * g.shape[2] * g.element_size()
        return max(1, min(MAX_SAMPLES, MAX_BYTES // max(1, size)))
