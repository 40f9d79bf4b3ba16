"""The texts that the benchmarks send: newsgroup posts, or self-made ones of the same lengths."""

import random
from collections.abc import Iterator
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Final

from worker.classify.artefact import DEFAULT, read
from worker.classify.corpus import CorpusError, newsgroups

_BESIDE: Final = Path(__file__).resolve().parents[2] / "shared" / "data" / "scikit_learn_data"

_LENGTHS: Final = (115, 490, 670, 820, 982, 1168, 1389, 1685, 2114, 3147, 12_000)
"""Deciles of the test posts' lengths in bytes, the last one cut: the mean is theirs, 1.8 KB."""


def texts() -> tuple[str, list[str]]:
    """Return where the texts are from, in words for people, and the texts.

    Looks for the posts in scikit-learn's data home (SCIKIT_LEARN_DATA), then beside the checkout.
    """
    for home in [None, *([str(_BESIDE)] if _BESIDE.is_dir() else [])]:
        with suppress(CorpusError):
            posts = newsgroups("test", home, "whole").variants["whole"]
            return "20 newsgroups, test posts", [
                each for each in posts if each and "\0" not in each
            ]
    return "self-made texts", list(_made(2_000))


def _made(count: int) -> Iterator[str]:
    """Yield texts of words that the model knows, common words more often (Zipf's law)."""
    terms = read(DEFAULT).vectoriser.terms
    weights = [*accumulate(1 / rank for rank in range(1, len(terms) + 1))]
    chance = random.Random(20)
    for _ in range(count):
        decile = chance.randrange(len(_LENGTHS) - 1)
        length = int(chance.uniform(_LENGTHS[decile], _LENGTHS[decile + 1]))
        yield " ".join(chance.choices(terms, cum_weights=weights, k=length // 4))[:length]
