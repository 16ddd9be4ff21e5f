"""Calibration examples: what is read, what is refused, what is held out."""

import pytest

from prunedlora import CompressConfig, compress_adapter
from prunedlora.compress.examples import Tokens, read_records, split
from prunedlora.errors import ConfigurationError
from tests.adapters_on_disk import base_folder, examples, saved


@pytest.mark.parametrize("text", ["[1]\n", "{\n", '{"other": 1}\n' * 5, '{"text": "abc"}\n', ""])
def test_data_of_no_use_is_refused(tmp_path, text):
    base, data = str(base_folder(tmp_path / "base")), tmp_path / "data.jsonl"
    data.write_text(text)
    with pytest.raises(ConfigurationError):
        compress_adapter(
            saved(tmp_path / "a"),
            tmp_path / "b",
            CompressConfig(rank=2, base=base, data=str(data), device="cpu"),
        )
    assert not (tmp_path / "b").exists()


def test_a_prompt_does_not_count(tmp_path):
    from transformers import AutoTokenizer

    from prunedlora.compress.examples import to_tokens

    tokenizer = AutoTokenizer.from_pretrained(str(base_folder(tmp_path / "base")))
    tokens = to_tokens({"prompt": "ab", "completion": "c"}, tokenizer)
    assert tokens == Tokens([3, 4, 5, 2], [-100, -100, 5, 2])


def test_examples_are_split_once_and_for_all(tmp_path):
    records = [Tokens([i], [i]) for i in range(40)]
    calibration, held_out = split(records, 20, 3)
    assert (len(calibration), len(held_out)) == (15, 5)
    assert not {e.ids[0] for e in calibration} & {e.ids[0] for e in held_out}
    assert split(records, 20, 3) == (calibration, held_out) != split(records, 20, 4)
    assert len(read_records(examples(tmp_path / "x.jsonl", 7))) == 7
