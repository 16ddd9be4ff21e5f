"""PEFT itself says which entry of a pattern belongs to a module; ours must agree."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from prunedlora.errors import AdapterFileError
from prunedlora.files.adapter_config import AdapterConfig, read_config

NAMES = (
    "q_proj",
    "model.layers.0.self_attn.q_proj",
    "model.layers.10.self_attn.q_proj",
    "model.layers.0.mlp.down_proj",
    "model.layers.0.mlp_q_proj",
    "lm_head",
    "a+b.c",
    "",
)
EXPRESSIONS = (
    "q_proj",
    "proj",
    "self_attn",
    ".*q_proj",
    "^q_proj",
    "^model.*proj",
    r"layers\.0\.self_attn\.q_proj",
    r"^model\.layers\.0\.self_attn\.q_proj",
    r"layers\.(0|1)\.mlp\.down_proj",
    "q_proj|down_proj",
    "q_proj$",
    "(?:q|down)_proj",
    r"(l)ayers\.\d+\..*_pro(j)",
    r"([a-z])\3_nothing",
    "a+b.c",  # as a name, not as an expression
    "model.layers.0.self_attn.q_proj",
    "",
)


def peft_says(pattern, name, default):
    return pattern.get(get_pattern_key(list(pattern), name), default)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(EXPRESSIONS), unique=True, max_size=4), st.sampled_from(NAMES))
def test_patterns_mean_what_they_mean_to_peft(expressions, name):
    ranks = {expression: i + 1 for i, expression in enumerate(expressions)}
    alphas = {expression: 10.0 * rank for expression, rank in reversed(ranks.items())}
    config = AdapterConfig({}, 64, 7.0, rslora=False, rank_pattern=ranks, alpha_pattern=alphas)
    rank = peft_says(ranks, name, 64)
    assert config.rank(name) == rank
    assert config.scaling(name) == peft_says(alphas, name, 7.0) / rank


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.text(alphabet="ab.+*?|()^$\\1", max_size=8), st.text(alphabet="ab.+", max_size=6))
def test_any_expression_means_what_it_means_to_peft_or_is_refused_by_both(
    tmp_path_factory, expression, name
):
    file = tmp_path_factory.mktemp("pattern") / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": "LORA", "rank_pattern": {expression: 1}}))
    try:
        expected = peft_says({expression: 1}, name, 8)
    except re.error:
        with pytest.raises(AdapterFileError, match="not a regular expression"):
            read_config(file)
    else:
        assert read_config(file).rank(name) == expected


@pytest.mark.parametrize("entries", [{"lora_alpha": 10**400}, {"alpha_pattern": {"q": 10**400}}])
def test_an_integer_that_no_float_can_hold_is_refused(tmp_path, entries):
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": "LORA", **entries}))
    with pytest.raises(AdapterFileError, match="finite number"):
        read_config(file)


@pytest.mark.parametrize("expression", ["(?i)q", "a{99999999999}", "(" * 20_000 + ")" * 20_000])
def test_an_expression_that_peft_could_not_use_is_refused(tmp_path, expression):
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": "LORA", "rank_pattern": {expression: 4}}))
    with pytest.raises(AdapterFileError, match="rank_pattern"):
        read_config(file)
