"""A package that is missing is named, with what to type to get it."""

import re
import sys

import peft
import pytest
from torch import nn

from prunedlora.compress.base_model import load_base
from prunedlora.compress.benchmark import through_dense
from prunedlora.compress.examples import read_records
from prunedlora.errors import MissingPackageError
from prunedlora.optional import require


def says(text):
    return pytest.raises(MissingPackageError, match=f"^{re.escape(text)}$")


def test_the_message_names_the_package_and_the_purpose():
    with says('this needs nothing_there: pip install "prunedlora[cli]"'):
        require("nothing_there.at_all")
    with says("a test needs nothing of json: pip install -U json"):
        require("json:nothing", "-U json", purpose="a test")
    with says('this needs loads of nothing_there: pip install "prunedlora[cli]"'):
        require("nothing_there:loads")


def test_a_base_model_needs_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with says('a base model needs transformers: pip install "prunedlora[cli]"'):
        load_base("any")


def test_a_data_set_on_the_hub_needs_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with says(
        'data.json does not end in .jsonl, and a data set on the hub needs datasets: pip install "prunedlora[hub]"'
    ):
        read_records("data.json")


def test_the_comparison_needs_a_new_peft(monkeypatch):
    monkeypatch.delattr(peft, "convert_to_lora")
    with says("the comparison needs convert_to_lora of peft: pip install -U peft"):
        through_dense(nn.Linear(2, 2), 1)
