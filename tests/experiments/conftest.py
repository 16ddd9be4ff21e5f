"""The tiny language model of the smoke preset."""

import pytest
import torch

from experiments.finetuning.models import load_model


@pytest.fixture(scope="session")
def tiny():
    model, tokenizer = load_model("tiny", torch.float32)
    return model.eval(), tokenizer
