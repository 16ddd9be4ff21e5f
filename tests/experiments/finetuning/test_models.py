import pytest
import torch

from experiments.finetuning.models import load_model


def test_hub_models_need_a_revision():
    with pytest.raises(SystemExit, match="@revision"):
        load_model("someone/some-model", torch.float32)
