r"""What passes through the bottleneck of an adapter: z = Ax forward, u = ∂L/∂z backward.

Second moments of both are r x r; no d x d matrix is formed.  Everything is recorded when the gradient of a forward
pass arrives, so that evaluation is not counted and a forward pass that gradient checkpointing runs twice counts
once.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from prunedlora.adapters.modules import LoraModule
from prunedlora.errors import ConfigurationError
from prunedlora.statistics.average import Average, Pool, gram_of_columns
from prunedlora.statistics.core_gradients import CoreGradients, Space
from prunedlora.statistics.hooks import Hooked, Record, by_sample, watch


class BottleneckMoments(Hooked):
    r"""Collects :math:`C_z = E[z z^\top]`, :math:`U = E[\sum_t u_t u_t^\top]` and core gradients of every module.

    `u` is the gradient of each sample's own loss: the loss is taken to be a mean over the samples, which are the
    first dimension of a layer's input.  C_z is a mean over tokens, U one over samples, so that
    :math:`U \otimes C_z` is the Kronecker-factored Fisher matrix of the mean loss.

    >>> import peft
    >>> model = nn.Sequential(nn.Linear(4, 3))
    >>> model = peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["0"]), model)
    >>> from prunedlora.adapters.modules import find_lora_modules
    >>> modules = find_lora_modules(model)
    >>> with BottleneckMoments(model, modules, ("C_z", "U")) as moments:
    ...     model(torch.ones(5, 4)).sum().backward()
    >>> moments.of(modules[0])["C_z"].shape
    torch.Size([2, 2])

    Args:
        model: the model, for its ``attention_mask``.
        modules: the adapted modules.
        needs: which of ``"C_z"``, ``"U"``, ``"core_gradients"`` to collect; nothing else is computed.
        loss_scale: what the loss was multiplied by before ``backward()``, e.g. ``scaler.get_scale``.
        ignore_padding: leave out tokens whose entry in the model's argument ``attention_mask`` (samples, tokens)
            is 0.
        spaces: of modules, by name, whose core gradients are kept within a space only, see
            `prunedlora.statistics.core_gradients`.

    Attributes:
        averages: of each module, by the names of the moments.
        core: core gradients of each module.

    Raises:
        ConfigurationError: from ``backward()``, where an attention mask does not fit a layer's tokens.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: list[LoraModule],
        needs: tuple[str, ...],
        *,
        loss_scale: Callable[[], float] = lambda: 1.0,
        ignore_padding: bool = False,
        spaces: Mapping[str, Space] | None = None,
    ) -> None:
        super().__init__()
        self._mask = None
        self.pool = Pool(loss_scale)
        self.averages = {
            m.name: {n: Average(self.pool) for n in needs if n != "core_gradients"} for m in modules
        }
        self.core: dict[str, CoreGradients] = {}
        if "core_gradients" in needs:
            self.core = {m.name: CoreGradients((spaces or {}).get(m.name)) for m in modules}
        if ignore_padding:
            hook = torch.compiler.disable(self._mask_keeper(model))  # type: ignore[no-untyped-call]
            self._handles.append(model.register_forward_pre_hook(hook, with_kwargs=True))
        for module in modules:
            self._handles.append(
                watch(
                    module.layer.lora_A[module.adapter], self._recorder(module.name), keep="output"
                )
            )

    def of(self, module: LoraModule) -> dict[str, Tensor]:
        """What has been collected for a module, over all processes, under the names that `Statistics` gives it."""
        moments = {
            need: average.mean(module.name) for need, average in self.averages[module.name].items()
        }
        if module.name in self.core:
            fields = self.core[module.name].fields()
            if not fields:
                raise ConfigurationError(
                    f"no backward pass has reached {module.name}; collect over at least one"
                )
            moments |= fields
        return moments

    def samples(self, module: LoraModule) -> Float[Tensor, "n c c"] | None:
        """The core gradients of a module, over all processes; None if there are none."""
        return self.core[module.name].samples() if module.name in self.core else None

    def restore(self, module: LoraModule, samples: Float[Tensor, "n r r"]) -> None:
        """Start from what `samples` gave, shared out again among the processes."""
        if module.name in self.core:
            self.core[module.name].restore(samples)

    def _mask_keeper(self, model: nn.Module) -> Callable[..., None]:
        def keep(called: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if called is model:  # and not a deep copy of it
                self._mask = kwargs.get("attention_mask")

        return keep

    def _recorder(self, name: str) -> Callable[[], Record | None]:
        """What to do with z and u of the forward pass that begins now; None if it is not wanted."""

        def begin() -> Record | None:
            mask = self._mask
            return (lambda z, u: self._record(name, z, u, mask)) if self.active else None

        return begin

    @torch.no_grad()
    def _record(self, name: str, z: Tensor, u: Tensor, mask: Tensor | None) -> None:
        z = by_sample(z)
        u = by_sample(u)
        # Masked tokens count neither in sums nor in their number; a pooled output has no tokens to mask.
        tokens: float | Tensor = z.shape[0] * z.shape[1]
        if mask is not None and z.shape[1] > 1:
            keep = _fitting(mask, z, name)
            z = z * keep.unsqueeze(-1)
            u = u * keep.unsqueeze(-1)
            tokens = keep.sum()
        # u of each sample's own loss: the mean over samples is undone.
        averages = self.averages[name]
        scale = z.shape[0] / self.pool.scale(next(iter(averages.values()), None))
        if "C_z" in averages:
            averages["C_z"].add(gram_of_columns(z.flatten(0, 1)), tokens)
        if "U" in averages:
            averages["U"].add(gram_of_columns(u.flatten(0, 1)), z.shape[0], scale**2)
        if name in self.core:
            self.core[name].add(z, u * scale)


def _fitting(mask: Tensor, z: Float[Tensor, "n tokens r"], name: str) -> Bool[Tensor, "n tokens"]:
    if mask.shape != z.shape[:2]:
        raise ConfigurationError(
            f"the attention mask has shape {tuple(mask.shape)}, but {name} sees {z.shape[0]} samples of "
            f"{z.shape[1]} tokens; pass a mask (samples, tokens), or set ignore_padding=False"
        )
    return mask.to(z.device) != 0
