r"""A loss whose gradients have the true Fisher matrix as their second moment.

The Fisher matrix of a softmax is the expectation, over labels drawn from the model's own probabilities p, of the
gradient's outer product.  Drawing a label has a high variance: a confident model nearly always draws the label whose
gradient is tiny.  Since :math:`\operatorname{diag}(p) - pp^\top = LL^\top`, any :math:`v = L\xi` with independent
signs :math:`\xi` has the same second moment, and a length that hardly varies.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prunedlora.errors import ConfigurationError

#: Entries of the logits that are turned into `signed_root` at once, which needs several tensors of that size.
AT_ONCE = 2**24


def fisher_loss(
    logits: Float[Tensor, "n *t c"],
    counted: Bool[Tensor, "n *t"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    r"""A random number to call ``backward()`` on instead of the loss, to calibrate without labels.

    With :math:`q = \sqrt p` and the Householder reflection that maps :math:`q` to :math:`-e_0`, the other c - 1
    columns are a basis of the complement of q: :math:`L = \operatorname{diag}(q) N`.  For two classes there is one
    column, and the outer product is exact.  The sample's own number is
    :math:`s_n = \sqrt{n/T}\sum_t \langle v_t, \text{logits}_t\rangle` over its counted positions, T of them in all,
    and :math:`E[\nabla s_n \nabla s_n^\top]` is the Fisher matrix of its share of the mean loss; returned is the
    mean of :math:`s_n` over the n samples, as `prunedlora.statistics.bottleneck.BottleneckMoments` expects of a loss.

    Args:
        logits: of each sample, and of each position if there are positions.
        counted: positions that the loss counts; all by default.
        generator: of the signs, on the CPU; on another device they come from a generator there that it seeds.

    Raises:
        ConfigurationError: no position is counted, or there is only one class.

    >>> logits = torch.tensor([[0.0, 1.0]], requires_grad=True)
    >>> fisher_loss(logits).backward()
    >>> p = logits.detach().softmax(-1)
    >>> torch.allclose(logits.grad.mT @ logits.grad, torch.diag(p[0]) - p.mT @ p)
    True
    """
    n = logits.shape[0]
    c = logits.shape[-1]
    if c < 2:
        raise ConfigurationError("fisher_loss needs the logits of at least two classes")
    flat = logits.reshape(-1, c) if counted is None else logits[counted]
    if flat.shape[0] == 0:
        raise ConfigurationError("no position is counted; check the labels of the calibration data")
    if flat.device.type != "cpu":
        generator = _on(flat.device, generator)
    wide = torch.promote_types(flat.dtype, torch.float32)
    # A part of the positions at a time; the signs are the same as at once.
    total = flat.new_zeros(())
    for part in torch.split(flat, max(1, AT_ONCE // c)):
        v = signed_root(part.detach().to(wide), generator)
        total = total + (part * v.to(flat.dtype)).sum()
    return total / (n * flat.shape[0]) ** 0.5


def signed_root(
    logits: Float[Tensor, "m c"], generator: torch.Generator | None
) -> Float[Tensor, "m c"]:
    r"""One draw of :math:`v = L\xi` for each row; :math:`E[vv^\top] = \operatorname{diag}(p) - pp^\top`."""
    q = logits.softmax(dim=-1).sqrt()
    size = logits[:, 1:].shape
    device = generator.device if generator is not None else None
    bits = torch.randint(0, 2, size, generator=generator, dtype=torch.int8, device=device)
    signs = bits.to(q) * 2 - 1
    along = (q[:, 1:] * signs).sum(dim=-1, keepdim=True)
    first = -along
    rest = signs - q[:, 1:] * along / (1 + q[:, :1])
    return q * torch.cat([first, rest], dim=-1)


def _on(device: torch.device, generator: torch.Generator | None) -> torch.Generator:
    """A generator on a device, seeded by one on the CPU: a sign for each logit is slow to draw there, and to move."""
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)
