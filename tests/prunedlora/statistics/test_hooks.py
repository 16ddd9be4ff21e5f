import pytest

from prunedlora.statistics.bottleneck import BottleneckMoments
from prunedlora.statistics.fisher import MicroBatchFisher, SampleFisher
from tests.prunedlora.statistics.network import BOTTLENECK, make


def test_hooks_are_removed_also_by_an_error():
    model, modules = make()
    with (
        pytest.raises(KeyError),
        BottleneckMoments(model, modules, BOTTLENECK, ignore_padding=True),
        SampleFisher(modules),
        MicroBatchFisher(modules),
    ):
        raise KeyError
    assert not model._forward_pre_hooks
    for m in modules:
        assert not m.layer.lora_A["default"]._forward_hooks
        assert not m.layer.lora_B["default"]._forward_hooks
        assert not m.A._backward_hooks
        assert not m.B._backward_hooks
