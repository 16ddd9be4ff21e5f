"""Collected curvature against curvlinops: KFAC, the empirical Fisher, and its expectation, the GGN.

curvlinops needs a model of plain linear layers, so the adapter is written out: W x + s B (A x), with A and B as
`nn.Linear` and the core S between them where its curvature is asked for.
"""

import warnings

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from prunedlora.adapters.modules import LoraModule
from prunedlora.statistics.bottleneck import BottleneckMoments
from prunedlora.statistics.fisher import SampleFisher
from tests.layers import generator, relative

with (
    warnings.catch_warnings()
):  # a dependency of curvlinops calls torch.jit.script when it is imported
    warnings.simplefilter("ignore", DeprecationWarning)
    from curvlinops import EFLinearOperator, GGNLinearOperator, KFACLinearOperator

S_LORA, R, N, CLASSES = 2.0, 3, 8, 4
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Layer(nn.Module, LoraLayer):
    """What `LoraModule` reads of a PEFT layer."""

    def __init__(self, d_in, d_out):
        nn.Module.__init__(self)
        self.base = nn.Linear(d_in, d_out).requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(d_in, R, bias=False)})
        self.core = nn.Linear(R, R, bias=False)
        self.lora_B = nn.ModuleDict({"default": nn.Linear(R, d_out, bias=False)})
        self.scaling = {"default": S_LORA}
        nn.init.eye_(self.core.weight)

    def forward(self, x):
        return self.base(x) + S_LORA * self.lora_B["default"](self.core(self.lora_A["default"](x)))


@pytest.fixture
def setting():
    torch.manual_seed(0)
    layers = Layer(5, 6).double(), Layer(6, CLASSES).double()
    model = nn.Sequential(layers[0], nn.Tanh(), layers[1]).double()
    modules = [
        LoraModule(f"{i}", layer, "default") for i, layer in zip((0, 2), layers, strict=True)
    ]
    x = torch.randn(N, 5, generator=generator(1), dtype=torch.float64)
    y = torch.randint(CLASSES, (N,), generator=generator(2))
    return model, modules, x, y


def backward(model, x, y):
    nn.functional.cross_entropy(model(x), y).backward()


def dense(operator):
    columns = operator.shape[1]
    return (operator @ torch.eye(columns, dtype=torch.float64)).reshape(columns, columns)


def test_core_gradients_give_the_empirical_fisher_of_the_core(setting):
    model, modules, x, y = setting
    with BottleneckMoments(model, modules, ("core_gradients",)) as moments:
        backward(model, x, y)
    for module in modules:
        g = moments.of(module)["core_gradients"].flatten(1)
        operator = EFLinearOperator(
            model, nn.CrossEntropyLoss(), [module.layer.core.weight], [(x, y)]
        )
        assert relative(g.mT @ g / N, dense(operator)) < 1e-8


def test_sample_fisher_is_the_empirical_fisher_summed_over_independent_rows(setting):
    model, modules, x, y = setting
    with SampleFisher(modules) as fisher:
        backward(model, x, y)
    for module in modules:
        for parameter, average, rows in ((module.B, 0, 0), (module.A, 1, 1)):
            operator = EFLinearOperator(model, nn.CrossEntropyLoss(), [parameter], [(x, y)])
            full = dense(operator).reshape(*parameter.shape, *parameter.shape)
            expected = (
                torch.einsum("iaib->ab", full) if rows == 0 else torch.einsum("aibi->ab", full)
            )
            assert relative(fisher.averages[module.name][average].mean(""), expected) < 1e-8


def test_bottleneck_moments_are_the_factors_of_kfac(setting):
    """KFAC of A has the output factor U, KFAC of B the input factor C_z; the core's block is U ⊗ C_z."""
    model, modules, x, y = setting
    with BottleneckMoments(model, modules, ("C_z", "U")) as moments:
        backward(model, x, y)
    for module in modules:
        operator = KFACLinearOperator(
            model,
            nn.CrossEntropyLoss(),
            [module.layer.core.weight],
            [(x, y)],
            fisher_type="empirical",
            kfac_approx="expand",
        )
        found = moments.of(module)
        assert relative(torch.kron(found["U"], found["C_z"]), dense(operator)) < 1e-8


def test_labels_of_the_model_give_the_ggn_in_expectation(setting):
    """With one weighted copy of each sample for each label, the mean over labels is exact: the GGN of the core."""
    model, modules, x, y = setting
    probabilities = model(x).detach().softmax(-1)
    for module in modules:
        expected = torch.zeros(R * R, R * R, dtype=torch.float64)
        for label in range(CLASSES):
            with BottleneckMoments(model, modules, ("core_gradients",)) as moments:
                backward(model, x, torch.full((N,), label))
            g = moments.of(module)["core_gradients"].flatten(1)
            expected += g.mT @ (probabilities[:, label, None] * g) / N
        operator = GGNLinearOperator(
            model, nn.CrossEntropyLoss(), [module.layer.core.weight], [(x, y)]
        )
        assert relative(expected, dense(operator)) < 1e-8
