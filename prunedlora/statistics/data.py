"""What has been measured about an adapter, in the form that every criterion reads."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from prunedlora.errors import ConfigurationError


@dataclass(frozen=True)
class Statistics:
    r"""What has been measured about an adapter; a field is None unless the criterion named it in `needs`.

    With :math:`z = Ax` and :math:`u = \partial L/\partial z` for each token, `L` the loss of its own sample:

    Attributes:
        gradient_B: gradient of the loss with respect to B, as the optimiser is about to use it.
        gradient_A: the same for A.
        gram_B: ``G_B^T G_B`` of whole optimiser steps, the last or averaged; unit loss² / weight².
        gram_A: ``G_A G_A^T``.
        fisher_B: ``G_B^T G_B`` averaged over micro-batches or over samples, before any clipping.
        fisher_A: ``G_A G_A^T``, alike.
        C_z: ``E[z z^T]`` over tokens, equal to ``A C A^T``.
        U: ``E[sum over tokens of u u^T]`` over samples, equal to ``s^2 B^T D B``; unit loss² / z².
        core_gradients: ``sum over tokens of u z^T``, one for each of n samples; r x r, or ``P^T g Q^T``, c x c.
        core_columns: P, where core gradients were measured within the best c components of a high rank.
        core_rows: Q, alike.
        core_traces: the trace of each r x r core gradient, where c is below r.
        sensitivity_B: moving average of ``|B * G_B|``, entry by entry.
        sensitivity_A: moving average of ``|A * G_A|``.
        uncertainty_B: moving average of the distance between ``|B * G_B|`` and its moving average.
        uncertainty_A: the same for A.
        noise: uniform numbers in [0, 1), the same in every process.
    """

    gradient_B: Float[Tensor, "*m d_out r"] | None = None
    gradient_A: Float[Tensor, "*m r d_in"] | None = None
    gram_B: Float[Tensor, "*m r r"] | None = None
    gram_A: Float[Tensor, "*m r r"] | None = None
    fisher_B: Float[Tensor, "*m r r"] | None = None
    fisher_A: Float[Tensor, "*m r r"] | None = None
    C_z: Float[Tensor, "*m r r"] | None = None
    U: Float[Tensor, "*m r r"] | None = None
    core_gradients: Float[Tensor, "*m n c c"] | None = None
    core_columns: Float[Tensor, "*m r c"] | None = None
    core_rows: Float[Tensor, "*m c r"] | None = None
    core_traces: Float[Tensor, "*m n"] | None = None
    sensitivity_B: Float[Tensor, "*m d_out r"] | None = None
    sensitivity_A: Float[Tensor, "*m r d_in"] | None = None
    uncertainty_B: Float[Tensor, "*m d_out r"] | None = None
    uncertainty_A: Float[Tensor, "*m r d_in"] | None = None
    noise: Float[Tensor, "*m r"] | None = None

    def require(self, name: str) -> Tensor:
        """The field `name`; an error if it was not collected."""
        value = getattr(self, name)
        if value is None:
            raise ConfigurationError(
                f"this criterion needs the statistic {name!r}; name it in `needs`"
            )
        return value
