import pytest
import torch

from experiments.finetuning.models import load_model
from experiments.pretrained.corpus import Corpus, load_corpus, sequences


def test_splits_of_the_text_are_disjoint_prose():
    corpus = load_corpus("sotu")
    assert not set(corpus.calibration) & set(corpus.test)
    assert len(corpus.calibration) > 100
    assert len(corpus.test) > 30
    assert all(len(text.split()) > 500 for text in corpus.calibration + corpus.test)
    assert (
        Corpus("", corpus.calibration, corpus.test[1:]).hashes["calibration"]
        == corpus.hashes["calibration"]
    )
    assert Corpus("", corpus.calibration, corpus.test[1:]).hashes["test"] != corpus.hashes["test"]


def test_a_text_that_is_unknown_or_too_short_is_refused():
    with pytest.raises(ValueError, match="there are: sotu"):
        load_corpus("wikipedia")
    tokenizer = load_model("tiny", torch.float32)[1]
    with pytest.raises(ValueError, match="has 1 sequences of 2 tokens, not 3"):
        sequences(tokenizer, ("one two three", "one"), 2, 3, 0)
