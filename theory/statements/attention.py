"""One attention head and its perturbation, shared by the statements about activations."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from theory.checking import instances
from theory.checking.numerics import frobenius, spectral


@dataclass(frozen=True)
class Heads:
    """Queries, keys and values of h heads, and what pruning has made of them (`_hat`).

    Where there is a mask (causal attention, say), `allowed` holds the keys that each query may see, at least one.
    """

    Q: Float[Tensor, "*n h N d"]
    K: Float[Tensor, "*n h N_keys d"]
    V: Float[Tensor, "*n h N_keys d"]
    Q_hat: Float[Tensor, "*n h N d"]
    K_hat: Float[Tensor, "*n h N_keys d"]
    V_hat: Float[Tensor, "*n h N_keys d"]
    allowed: Bool[Tensor, "*n h N N_keys"] | None = None

    @property
    def errors(self) -> Float[Tensor, "3 *n h"]:
        """Frobenius norms of the changes of Q, K and V."""
        changes = (self.Q - self.Q_hat, self.K - self.K_hat, self.V - self.V_hat)
        return torch.stack([frobenius(change) for change in changes])

    @property
    def epsilon(self) -> Float[Tensor, "*n h"]:
        """The activation error of Definition 1: the largest of the three, for each head."""
        return self.errors.amax(dim=0)

    @property
    def finite(self) -> Tensor:
        """Where no input is NaN or infinite."""
        every = torch.cat((self.Q, self.Q_hat, self.K, self.V, self.K_hat, self.V_hat), dim=-2)
        return torch.isfinite(every).all(dim=-1).all(dim=-1).all(dim=-1)


def probabilities(
    Q: Float[Tensor, "*n N d"],
    K: Float[Tensor, "*n N_keys d"],
    allowed: Bool[Tensor, "*n N N_keys"] | None = None,
) -> Float[Tensor, "*n N N_keys"]:
    """Attention weights, ``softmax(Q K^T / sqrt(d))`` in each row, over the keys that are allowed."""
    scores = Q @ K.mT / Q.shape[-1] ** 0.5
    return torch.softmax(
        scores if allowed is None else scores.masked_fill(~allowed, -torch.inf), dim=-1
    )


def head_output(
    Q: Float[Tensor, "*n N d"],
    K: Float[Tensor, "*n N_keys d"],
    V: Float[Tensor, "*n N_keys d_v"],
    allowed: Bool[Tensor, "*n N N_keys"] | None = None,
) -> Float[Tensor, "*n N d_v"]:
    """``softmax(Q K^T / sqrt(d)) V``.

    >>> head_output(torch.zeros(1, 2), torch.ones(2, 2), torch.tensor([[0.0], [4.0]]))
    tensor([[2.]])
    """
    return probabilities(Q, K, allowed) @ V


def output_error(instance: Heads) -> Float[Tensor, "*n h"]:
    """``||Z - Z_hat||_F`` of each head."""
    before = head_output(instance.Q, instance.K, instance.V, instance.allowed)
    return frobenius(
        before - head_output(instance.Q_hat, instance.K_hat, instance.V_hat, instance.allowed)
    )


def over_heads(errors: Float[Tensor, "*n h"]) -> Float[Tensor, "*n"]:
    """Frobenius norm of the concatenated heads from those of the single ones."""
    return torch.linalg.vector_norm(errors, dim=-1)


def jacobian_norm(p: Float[Tensor, "*n N"]) -> Float[Tensor, "*n"]:
    """Spectral norm of the softmax Jacobian ``diag(p) - p p^T``.

    >>> jacobian_norm(torch.tensor([0.5, 0.5]))
    tensor(0.5000)
    """
    return spectral(torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2))


def sample(generator: Generator, n: int, *, h: int, N: int, N_keys: int, d: int) -> Heads:
    """Random heads over six decades of scale, and changes over eight, one scale for each of Q, K, V."""

    def before(rows: int) -> Tensor:
        return instances.matrices(generator, n, h, rows, d)

    def after(X: Tensor) -> Tensor:
        change = instances.matrices(generator, n, *X.shape[1:], low=-5.0, high=0.5)
        size = torch.linalg.vector_norm(X, dim=(1, 2, 3)) / X[0].numel() ** 0.5
        return X + instances.scaled(change, size)

    Q, K, V = before(N), before(N_keys), before(N_keys)
    return Heads(Q, K, V, after(Q), after(K), after(V))
