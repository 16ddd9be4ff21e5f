"""What a layer sees and what the loss says of it, before any factor: from it follow the statistics of any factors."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from experiments.finetuning.calibration import batches_of
from experiments.settings.jobs import RunConfig
from experiments.tasks import Example
from prunedlora.adapters.modules import LoraModule
from prunedlora.factors import Factors
from prunedlora.statistics.data import Statistics
from prunedlora.statistics.hooks import by_sample, watch
from prunedlora.statistics.measurement import model_fisher, model_loss


@dataclass(frozen=True)
class LayerMoments:
    """Moments of one layer.

    Attributes:
        C: second moment of its inputs over tokens.
        D: second moment of its outputs' gradients, summed over tokens, over samples of the true Fisher matrix.
        gradients: of the data's loss with respect to the layer's weight, for each batch.
        scaling: s in ``W0 + s B A``.
    """

    C: Float[Tensor, "d_in d_in"]
    D: Float[Tensor, "d_out d_out"]
    gradients: Float[Tensor, "batches d_out d_in"]
    scaling: float

    def statistics(self, factors: Factors) -> Statistics:
        """What a criterion would measure if the layer had these factors and the rest of the model were unchanged."""
        B, A = factors.B.double(), factors.A.double()
        s = self.scaling
        of_B = s * self.gradients @ factors.A.to(self.gradients).mT
        of_A = s * factors.B.to(self.gradients).mT @ self.gradients
        gram_B = (of_B.mT @ of_B).double().mean(dim=0)
        gram_A = (of_A @ of_A.mT).double().mean(dim=0)
        return Statistics(
            gradient_B=of_B.mean(dim=0),
            gradient_A=of_A.mean(dim=0),
            gram_B=gram_B,
            gram_A=gram_A,
            fisher_B=gram_B,
            fisher_A=gram_A,
            C_z=A @ self.C @ A.mT,
            U=s**2 * B.mT @ self.D @ B,
        )


class _Sums:
    """Running sums of one layer."""

    def __init__(self) -> None:
        self.C = self.D = torch.zeros(())
        self.tokens = 0
        self.samples = 0
        self.gradients: list[Tensor] = []

    def of_data(self, x: Tensor, g: Tensor) -> None:
        """Takes up inputs and output gradients of a batch of the data's loss."""
        self.gradients.append(g.flatten(0, -2).mT @ x.flatten(0, -2))

    def of_model(self, x: Tensor, g: Tensor, mask: Tensor) -> None:
        """Takes up those of a batch of the true Fisher matrix, without its padding."""
        # The loss is a mean over samples: times their number it is each sample's own.
        x, g = by_sample(x), by_sample(g) * g.shape[0]
        x, g = (t[mask.bool()].double() for t in (x, g))
        self.C = self.C + x.mT @ x
        self.D = self.D + g.mT @ g
        self.tokens += len(x)
        self.samples += len(mask)


def observe(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    run: RunConfig,
    examples: list[Example],
    modules: list[LoraModule],
    seed: int,
) -> dict[str, LayerMoments]:
    """Moments of some layers, by name, from the same two passes as `experiments.finetuning.calibration.calibrate`."""
    sums = {m.name: _Sums() for m in modules}
    generator = torch.Generator().manual_seed(seed)
    # The mask says which of the two passes is under way, and which tokens count in the second.
    current: dict[str, Tensor | None] = {"mask": None}

    def recorder(name: str) -> Callable[[], Callable[[Tensor, Tensor], None]]:
        def record(x: Tensor, g: Tensor) -> None:
            if current["mask"] is None:
                sums[name].of_data(x, g)
            else:
                sums[name].of_model(x, g, current["mask"])

        return lambda: record

    of_data = model_loss(model)
    of_model = model_fisher(model)
    handles = [watch(m.layer, recorder(m.name), keep="input") for m in modules]
    model.eval()
    try:
        for batch in batches_of(tokenizer, run, examples, next(model.parameters()).device):
            current["mask"] = None
            of_data(batch).backward()
            current["mask"] = batch["attention_mask"]
            of_model(batch, generator).backward()
            model.zero_grad()
    finally:
        for handle in handles:
            handle.remove()
    return {
        m.name: LayerMoments(s.C / s.tokens, s.D / s.samples, torch.stack(s.gradients), m.scaling)
        for m in modules
        for s in [sums[m.name]]
    }
