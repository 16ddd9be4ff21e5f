"""A small network with two adapted layers, and its bottleneck statistics through torch.autograd.grad."""

import peft
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from prunedlora.adapters.modules import find_lora_modules
from tests.layers import generator, relative

BOTTLENECK = ("C_z", "U", "core_gradients")


class Net(nn.Module):
    """Tokens (n, t, 5) -> tanh(linear) -> linear -> one number a token, averaged over tokens."""

    def __init__(self, checkpointed=None):
        super().__init__()
        self.first, self.second, self.checkpointed = nn.Linear(5, 6), nn.Linear(6, 4), checkpointed

    def forward(self, x, attention_mask=None):
        def body(x):
            return self.second(torch.tanh(self.first(x)))

        if self.checkpointed is None:
            return body(x)
        return checkpoint(body, x, use_reentrant=self.checkpointed)


def make(r=3, dtype=torch.float64, **kwargs):
    torch.manual_seed(0)
    model = peft.inject_adapter_in_model(
        peft.LoraConfig(r=r, lora_alpha=6, target_modules=["first", "second"]), Net(**kwargs)
    ).to(dtype)
    modules = find_lora_modules(model)
    for m in modules:
        m.B.data.normal_(generator=generator(7))
    return model, modules


def data(n=4, t=3, seed=0):
    return torch.randn(n, t, 5, generator=generator(seed), dtype=torch.float64)


def sample_losses(model, x, mask=None):
    """One loss per sample: the squared outputs, summed over tokens that count."""
    out = model(x).square().sum(-1)
    return (out if mask is None else out * mask).sum(1)


def reference(model, modules, x, mask=None):
    """z and u of every token, one sample at a time, through torch.autograd.grad; shapes (n, t, r)."""
    found = {m.name: ([], []) for m in modules}
    for sample in range(len(x)):
        kept = {}
        handles = [
            m.layer.lora_A["default"].register_forward_hook(
                lambda _, __, z, name=m.name, kept=kept: kept.update({name: z})
            )
            for m in modules
        ]
        loss = sample_losses(
            model, x[sample : sample + 1], None if mask is None else mask[sample : sample + 1]
        ).sum()
        for handle in handles:
            handle.remove()
        gradients = torch.autograd.grad(loss, list(kept.values()))
        for (name, z), u in zip(kept.items(), gradients, strict=True):
            found[name][0].append(z.detach()[0])
            found[name][1].append(u[0])
    return {name: (torch.stack(z), torch.stack(u)) for name, (z, u) in found.items()}


def assert_equal_to_reference(moments, modules, expected, keep=None):
    for m in modules:
        z, u = expected[m.name]
        weight = torch.ones(z.shape[:2], dtype=z.dtype) if keep is None else keep.to(z.dtype)
        z, u = z * weight[..., None], u * weight[..., None]
        found = moments.of(m)
        assert relative(found["C_z"], torch.einsum("nti,ntj->ij", z, z) / weight.sum()) < 1e-12
        assert relative(found["U"], torch.einsum("nti,ntj->ij", u, u) / len(z)) < 1e-12
        assert relative(found["core_gradients"], torch.einsum("nti,ntj->nij", u, z)) < 1e-12
