"""Configurations: patterns mean what they mean to PEFT, bad ones are one clear error and nothing is written."""

import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from prunedlora import CompressConfig, compress_adapter
from prunedlora.errors import AdapterFileError, UnsupportedAdapterError
from prunedlora.files.adapter_config import AdapterConfig, read_config
from prunedlora.files.adapter_file import open_adapter
from tests.adapters_on_disk import configured, saved

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


BAD_CONFIGS = {
    "dora": ({"use_dora": True}, UnsupportedAdapterError, "DoRA"),
    "lora_bias": ({"lora_bias": True}, UnsupportedAdapterError, "bias"),
    "pissa": ({"init_lora_weights": "pissa"}, UnsupportedAdapterError, "base model's weights"),
    "another method": ({"peft_type": "LOHA"}, UnsupportedAdapterError, "LOHA"),
    "rank": ({"r": -1}, AdapterFileError, "positive integer"),
    "rank as text": ({"r": "8"}, AdapterFileError, "positive integer"),
    "alpha": ({"lora_alpha": "x"}, AdapterFileError, "finite number"),
    "infinite alpha": ({"lora_alpha": float("inf")}, AdapterFileError, "finite number"),
    "pattern": ({"rank_pattern": [1]}, AdapterFileError, "not a JSON object"),
    "exclusion": ({"exclude_modules": 5}, AdapterFileError, "exclude_modules"),
    "exclusion of no names": ({"exclude_modules": [5]}, AdapterFileError, "exclude_modules"),
    "saved modules": ({"modules_to_save": -1}, AdapterFileError, "modules_to_save"),
    "saved modules as text": ({"modules_to_save": "lm_head"}, AdapterFileError, "not a list"),
    "parameters": ({"target_parameters": [None]}, AdapterFileError, "target_parameters"),
    "expression": ({"alpha_pattern": {"(": 1}}, AdapterFileError, "not a regular expression"),
    "another rank": ({"rank_pattern": {"q_proj": 4}}, AdapterFileError, "says 4"),
}


@pytest.mark.parametrize(
    ("entries", "kind", "message"), BAD_CONFIGS.values(), ids=BAD_CONFIGS.keys()
)
def test_bad_configurations(tmp_path, entries, kind, message):
    source = configured(tmp_path / "a", **entries)
    with pytest.raises(kind, match=message):
        compress_adapter(source, tmp_path / "b", CompressConfig(rank=2))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "\x00", '{"peft_type": "LORA"' + ", " * 5, "[" * 100_000]
)
def test_a_configuration_that_is_no_json_object(tmp_path, text):
    source = saved(tmp_path / "a")
    (source / "adapter_config.json").write_text(text)
    with pytest.raises(AdapterFileError, match="JSON"):
        open_adapter(source)


@pytest.mark.parametrize("expression", ["(a+)+", "(a|a)*b", "(.*a){30}", r"(\w+\.?)*!"])
def test_a_match_that_takes_for_ever_is_refused_in_time(tmp_path, expression):
    file = tmp_path / "adapter_config.json"
    entries = {"peft_type": "LORA", "rank_pattern": {expression: 4}}
    file.write_text(json.dumps(entries))
    start = time.monotonic()
    try:
        read_config(file).rank("l." + "a" * 40 + "?")
    except AdapterFileError as error:
        assert "reasonable time" in str(error)  # noqa: PT017 - other matchers answer at once
    assert time.monotonic() - start < 10


def test_names_as_patterns_are_matched_in_no_time():
    """As many patterns as modules, as in a ragged adapter."""
    names = [f"model.layers.{i}.self_attn.{p}_proj" for i in range(400) for p in "qkvo"]
    ranks = {"^" + re.escape(name): i + 1 for i, name in enumerate(names)}
    config = AdapterConfig({}, 8, 8.0, rslora=False, rank_pattern=ranks)
    start = time.monotonic()
    assert [config.rank(name) for name in names] == list(range(1, len(names) + 1))
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("entries", [{"r": 10**400}, {"rank_pattern": {"q_proj": 2**40}}])
def test_a_rank_that_no_tensor_can_have_is_refused(tmp_path, entries):
    with pytest.raises(AdapterFileError, match="positive integer"):
        open_adapter(configured(tmp_path / "a", **entries))


def test_an_expression_that_takes_for_ever_to_compile_is_refused(tmp_path):
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": "LORA", "rank_pattern": {"a|" * 5000: 4}}))
    with pytest.raises(AdapterFileError, match="characters"):
        read_config(file)


@pytest.mark.parametrize(
    "expression",
    ["((a{100}){100}){1000}", "(a{0,999}b){1000,}", "(a?){1000}" * 9, "a{1" + "0" * 99 + "}"],
)
def test_an_expression_that_takes_much_memory_to_compile_is_refused(tmp_path, expression):
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": "LORA", "alpha_pattern": {expression: 4}}))
    with pytest.raises(AdapterFileError, match="too much memory"):
        read_config(file)
    file.write_text(json.dumps({"peft_type": "LORA", "alpha_pattern": {r"layers\.\d{1,2}\.q": 4}}))
    assert read_config(file).scaling("layers.12.q") == 0.5


def test_what_is_a_fuzzy_match_to_the_faster_library_is_not_one(tmp_path):
    file = tmp_path / "adapter_config.json"
    pattern = {"(?:q_proj){e<=9}": 2, "q_{proj": 4}
    file.write_text(json.dumps({"peft_type": "LORA", "rank_pattern": pattern}))
    config = read_config(file)
    assert [config.rank(name) for name in ("x.v_proj", "x.q_{proj", "q_proj{e<=9}")] == [8, 4, 2]


def test_all_matches_together_have_a_limit_in_time(monkeypatch):
    class Slow:
        """An expression each of whose matches is within the limit of one."""

        def match(self, _, timeout):
            start = time.thread_time()
            while time.thread_time() - start < 0.02:
                if time.thread_time() - start > timeout:
                    raise TimeoutError

    monkeypatch.setattr("prunedlora.files.adapter_config._compiled", lambda _: Slow())
    monkeypatch.setattr("prunedlora.files.adapter_config._TIMEOUT_OF_ALL", 0.1)
    pattern = {f"a+{i}": 4 for i in range(1000)}
    config = AdapterConfig({}, 8, 8.0, rslora=False, rank_pattern=pattern)
    start = time.thread_time()
    with pytest.raises(AdapterFileError, match="reasonable time"):
        config.rank("a")
    assert time.thread_time() - start < 1


def test_a_configuration_of_any_length_is_not_read(tmp_path):
    file = tmp_path / "adapter_config.json"
    file.write_bytes(b" " * (2**25 + 1))
    with pytest.raises(AdapterFileError, match="bytes"):
        read_config(file)
