"""Texts to weighted word counts: scikit-learn's `TfidfVectorizer(sublinear_tf=True)`, faster.

Equal to scikit-learn's in what it gives (a test compares them), but twice as fast: finding and
looking up words is nine tenths of the cost of classifying a text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

# In ASCII text, what stands between words: cutting there by hand is six times faster than `WORD`.
GAPS = str.maketrans({char: " " for char in map(chr, range(128)) if not re.match(r"\w", char)})

WORD = r"\w\w+"
r"""Words of two or more characters. Matches what scikit-learn's `(?u)\b\w\w+\b` does: a match
found from the left takes the whole run, so the boundaries need no check."""


def words(text: str) -> list[str]:
    """Return the words of a text in lower case; of ASCII text also those of one character.

    No vocabulary holds a word of one character, so these are unknown and count for nothing.
    """
    text = text.lower()
    return text.translate(GAPS).split() if text.isascii() else re.findall(WORD, text)


@dataclass(frozen=True, slots=True, eq=False)
class Vectoriser:
    """The known words, in the order of their columns, and the inverse document frequency of each.

    `terms` has V words, `idf` the shape (V,). Common words should come first: what is looked up
    often then lies close together in memory, which is worth a tenth of the time.
    """

    terms: Sequence[str]
    idf: NDArray[np.float32]
    columns: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", {term: i for i, term in enumerate(self.terms)})

    def transform(self, texts: Sequence[str]) -> csr_array[np.float32]:
        """Return one row per text, shape (n, V): (1 + ln count) · idf, each row of length 1.

        A text without a known word gives a row of zeros.
        """
        matrix = self._count(texts)
        rows = np.repeat(np.arange(len(texts)), np.diff(matrix.indptr))
        values = (1 + np.log(matrix.data)) * self.idf[matrix.indices]
        length = np.sqrt(np.bincount(rows, values * values, minlength=len(texts)))
        matrix.data = (values / length[rows]).astype(np.float32)
        return matrix

    def _count(self, texts: Sequence[str]) -> csr_array[np.float32]:
        column = self.columns.get
        found: list[int] = []
        ends = [0]
        for text in texts:
            found += [i for i in map(column, words(text)) if i is not None]
            ends.append(len(found))
        ones = np.ones(len(found), np.float32)
        matrix: csr_array[np.float32] = csr_array(
            (ones, np.array(found, np.int32), np.array(ends, np.int32)),
            shape=(len(texts), len(self.terms)),
        )
        matrix.sum_duplicates()
        return matrix
