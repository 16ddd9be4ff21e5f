"""Against independent solutions: scipy, brute force, finite differences."""

import itertools

import numpy as np
import scipy.linalg
import torch
from torch import Generator

from prunedlora.linalg.elimination import block_solution
from theory.checking.instances import entry
from theory.checking.numerics import gram
from theory.statements import (
    s01_closed_form,
    s07_price_of_ignoring_the_loss,
    s09_second_order_guarantee,
    s10_weight_perturbation,
)


def test_closed_form_against_the_full_kkt_system_of_scipy():
    instance = s01_closed_form.sample(Generator().manual_seed(0), 20, d=3, r=5, count=2)
    for i in range(20):
        one = entry(instance, i)
        W, G, H, M = one.W[0], one.G[0], gram(one.factor[0]), one.removed[0].tolist()
        constraints = np.eye(5)[M]
        system = np.block([[H.numpy(), constraints.T], [constraints, np.zeros((2, 2))]])
        target = np.concatenate([-G.numpy().T, -W.numpy().T[M]])
        expected = scipy.linalg.solve(system, target, assume_a="sym")[:5].T
        delta, _ = block_solution(W, H, M, G)
        np.testing.assert_allclose(
            delta.numpy(), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max()
        )


def test_block_solution_in_a_batch_is_that_of_each_entry():
    instance = s01_closed_form.sample(Generator().manual_seed(1), 6, d=4, r=5, count=3)
    H = gram(instance.factor)
    delta, cost = block_solution(instance.W, H, instance.removed, instance.G)
    for i in range(6):
        single, price = block_solution(
            instance.W[i], H[i], instance.removed[i].tolist(), instance.G[i]
        )
        torch.testing.assert_close(delta[i], single)
        torch.testing.assert_close(cost[i], price)


def test_choices_against_brute_force():
    layer = s07_price_of_ignoring_the_loss.sample(Generator().manual_seed(2), 4, d=3, r=4, count=2)
    chosen, best = s07_price_of_ignoring_the_loss.losses_of_choices(layer)
    for i in range(4):
        activation, loss = [], []
        for M in itertools.combinations(range(4), 2):
            delta, _ = block_solution(layer.W[i], layer.C[i], M)
            if not layer.recover[i]:
                delta = torch.zeros_like(layer.W[i])
                delta[:, M] = -layer.W[i][:, M]
            activation.append(torch.trace(delta @ layer.C[i] @ delta.mT))
            loss.append(0.5 * torch.trace(layer.D[i] @ delta @ layer.C[i] @ delta.mT))
        torch.testing.assert_close(best[i], torch.stack(loss).min())
        torch.testing.assert_close(chosen[i], loss[int(torch.stack(activation).argmin())])


def test_root_costs_against_the_definition():
    layer = s10_weight_perturbation.sample(Generator().manual_seed(3), 5, d=3, r=4, count=2)
    costs = s10_weight_perturbation.root_cost(
        layer.W, layer.D, s10_weight_perturbation.kernels(layer)
    )
    delta, _ = block_solution(layer.W, layer.C, [1, 3])
    expected = (0.5 * (layer.D @ delta @ layer.C * delta).sum(dim=(-2, -1))).sqrt()
    torch.testing.assert_close(costs[:, 4], expected, rtol=1e-6, atol=0.0)


def test_third_derivative_against_finite_differences():
    one = s09_second_order_guarantee.sample_classifier(
        Generator().manual_seed(4), 3, d=3, r=2, N=4, count=1
    )
    phi, t, h = (
        s09_second_order_guarantee.along_segments(one),
        torch.full((3, 4), 0.3, dtype=torch.float64),
        1e-3,
    )
    d = s09_second_order_guarantee.derivative
    numeric = (phi(t + 2 * h) - 2 * phi(t + h) + 2 * phi(t - h) - phi(t - 2 * h)) / (2 * h**3)
    torch.testing.assert_close(d(d(d(phi)))(t), numeric, rtol=1e-3, atol=1e-5)
