"""Finding known words in ASCII text, all words of many texts at once.

A word of up to 24 bytes is taken for three 64-bit numbers, its bytes with zeros behind. So words
are hashed and compared by numpy, in a few passes over all of them, where a `dict` needs a string
for each.
"""

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_PART: Final = 8
_PARTS: Final = 3
_LONGEST: Final = _PARTS * _PART

_LETTERS: Final = bytes(
    ord(char.lower()) if char.isascii() and re.match(r"\w", char) else 0
    for char in map(chr, range(256))
)
"""What each byte of ASCII text becomes: one of a word its lower case, any other 0."""

_MASKS: Final = np.array([(1 << 8 * count) - 1 for count in range(_PART + 1)], np.uint64)
"""Keeps the first bytes of a part, as many as the index says."""

_FACTORS: Final = tuple(
    map(np.uint64, (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))
)
"""Odd numbers without a pattern, which mix the bits of the parts (from xxHash)."""

Indices = NDArray[np.intp]
Parts = NDArray[np.uint64]


class _Words:
    """The words of two bytes or more in a text.

    Attributes:
        starts: where each starts, shape (n,).
        lengths: bytes of each, shape (n,).
        first: the first part of each, shape (n,).
        longer: which have more than one part, shape (m,).
        others: their second and third parts, shape (m,) each.
    """

    def __init__(self, content: bytes) -> None:
        """Take a text in which all but words is 0."""
        inside = np.frombuffer(b"\0" + content + b"\0", np.uint8) != 0
        edges = np.flatnonzero(inside[1:] != inside[:-1])
        lengths = edges[1::2] - edges[0::2]
        wanted = np.flatnonzero(lengths > 1)
        self.starts = edges[0::2].take(wanted)
        self.lengths = lengths.take(wanted)
        # Each eight bytes of the text, whatever they start with. Of a word that is longer than
        # three parts the rest is left out: the table has none of those.
        padded = content + bytes(_LONGEST)
        eight: NDArray[Any] = np.ndarray(
            (len(content) + _LONGEST - 7,), "<u8", padded, strides=(1,)
        )
        self.first: Parts = eight[self.starts] & _MASKS.take(np.minimum(self.lengths, _PART))
        self.longer = np.flatnonzero(self.lengths > _PART)
        starts, lengths = self.starts.take(self.longer), self.lengths.take(self.longer)
        self.others: list[Parts] = [
            eight[starts + at] & _MASKS.take(np.clip(lengths - at, 0, _PART))
            for at in range(_PART, _LONGEST, _PART)
        ]


class WordTable:
    """The known words, by their bytes: a hash table with open addressing and linear probing.

    `terms` has V words; each is known by its column, its place among them. Words of more than 24
    bytes are in a `dict`. Those that are no ASCII, or of one byte, are not found.
    """

    def __init__(self, terms: Sequence[str]) -> None:
        self._none = len(terms)
        self._long = {
            term.encode(): column for column, term in enumerate(terms) if len(term) > _LONGEST
        }
        # One row more, of a word that is none, for the slots that are empty.
        parts = b"".join(
            (term if term.isascii() and len(term) <= _LONGEST else "")
            .encode()
            .ljust(_LONGEST, b"\0")
            for term in (*terms, "")
        )
        table = np.frombuffer(parts, "<u8").reshape(-1, _PARTS).astype(np.uint64)
        self._first, *self._others = (column.copy() for column in table.T)
        self._fill(np.flatnonzero(self._first))

    def _fill(self, columns: Indices) -> None:
        """Give each word the first slot that is free, from that of its hash on."""
        bits = max(4, (2 * len(columns)).bit_length())
        self._shift = np.uint64(64 - bits)
        self._last = (1 << bits) - 1
        self._slots = np.full(1 << bits, self._none)
        slots = self._slot(self._first, np.arange(self._none + 1), self._others)
        while columns.size:
            free = columns[self._slots[slots[columns]] == self._none]
            self._slots[slots[free]] = free
            columns = columns[self._slots[slots[columns]] != columns]
            slots[columns] = (slots[columns] + 1) & self._last

    def _slot(self, first: Parts, longer: Indices, others: Sequence[Parts]) -> Indices:
        """Return the slot in which the search for each word starts."""
        mixed = first * _FACTORS[0]
        for part, factor in zip(others, _FACTORS[1:], strict=True):
            mixed[longer] ^= part * factor
        mixed ^= mixed >> np.uint64(32)
        mixed *= _FACTORS[0]
        return (mixed >> self._shift).astype(np.intp)

    def find(self, texts: Sequence[str]) -> tuple[Indices, Indices]:
        """Return the columns of all known words of ASCII texts, and the place of each one's text.

        Args:
            texts: n of them.

        Returns:
            For each of m words its column (0 to V-1) and its text's place (0 to n-1).
        """
        content = " ".join(texts).encode("ascii").translate(_LETTERS)
        words = _Words(content)
        columns = self._look_up(words)
        for i in np.flatnonzero(words.lengths > _LONGEST).tolist():
            start = int(words.starts[i])
            word = content[start : start + int(words.lengths[i])]
            columns[i] = self._long.get(word, self._none)
        known = np.flatnonzero(columns != self._none)
        ends = [*accumulate(len(text) + 1 for text in texts)]
        return columns.take(known), np.searchsorted(ends, words.starts.take(known), "right")

    def _look_up(self, words: _Words) -> Indices:
        """Return the column of each word, V for those that the table does not have."""
        slots = self._slot(words.first, words.longer, words.others)
        columns = self._slots.take(slots)
        wrong = self._first.take(columns) != words.first
        found = columns.take(words.longer)
        for ours, theirs in zip(self._others, words.others, strict=True):
            wrong[words.longer] |= ours.take(found) != theirs
        left = np.flatnonzero(wrong & (columns != self._none))
        # Few are left, so they need not be told apart by their length.
        others = [np.zeros_like(words.first) for _ in words.others]
        for whole, part in zip(others, words.others, strict=True):
            whole[words.longer] = part
        while left.size:
            slots[left] = (slots[left] + 1) & self._last
            columns[left] = found = self._slots[slots[left]]
            same = self._first[found] == words.first[left]
            for ours, theirs in zip(self._others, others, strict=True):
                same &= ours[found] == theirs[left]
            left = left[~(same | (found == self._none))]
        return columns
