"""What people type, and what it means."""

import pytest

from prunedlora.cli.parsing import parse_options, parse_shape, parse_share, parse_size
from prunedlora.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("20MB", 20 * 10**6),
        ("20 mib", 20 * 2**20),
        ("0.5KB", 500),
        ("3GB", 3 * 10**9),
        ("7B", 7),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("parse", "texts", "fix"),
    [
        (
            parse_size,
            ("", "big", "-1MB", "1e3", "20XB", "1.MB", "9" * 400, "nan"),
            "write 20MB or 20MiB",
        ),
        (parse_share, ("", "much", "%", "1%%", "1 percent"), "write 1% or 0.01"),
        (parse_shape, ("", "4096", "4096x", "-1x2", "1x2x3", "9999999x1"), "write 4096x1024"),
    ],
)
def test_what_cannot_be_read_is_refused_with_an_example(parse, texts, fix):
    for text in texts:
        with pytest.raises(ConfigurationError, match=f"not a valid .*; {fix}"):
            parse(text)


def test_options_are_numbers_words_or_nothing():
    texts = [
        "a=1",
        "b=0.5",
        "c=1e-3",
        "d=true",
        "e=null",
        "f=word",
        "g=x=y",
        "h=NaN",
        "i=[1]",
        'j="q"',
        "k=1e999",
    ]
    assert parse_options(texts) == {
        **{"a": 1, "b": 0.5, "c": 1e-3, "d": True, "e": None, "f": "word", "g": "x=y"},
        **{"h": "NaN", "i": "[1]", "j": '"q"', "k": "1e999"},
    }
    assert type(parse_options(["a=1"])["a"]) is int


@pytest.mark.parametrize("text", ["damping", "=1", "damping=", ""])
def test_an_option_without_name_or_value_is_refused(text):
    with pytest.raises(ConfigurationError, match=r"write damping=0\.1"):
        parse_options([text])
