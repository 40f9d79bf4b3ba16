"""The table finds what a `dict` finds."""

import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.classify.lookup import WordTable
from worker.classify.vectoriser import words

TEXT = st.text(st.sampled_from("ab_ -A1\n\0"))
WORD = st.text(st.sampled_from("ab1_"), min_size=1, max_size=40)


def assert_found(terms: list[str], texts: list[str]) -> None:
    columns, places = WordTable(terms).find(texts)
    found = list(zip(places.tolist(), columns.tolist(), strict=True))
    known = {term: column for column, term in enumerate(terms) if len(term) > 1}
    assert found == [
        (place, known[word])
        for place, text in enumerate(texts)
        for word in words(text)
        if word in known
    ]


@given(st.lists(WORD, unique=True), st.lists(TEXT))
def test_finds_what_a_dict_finds(terms: list[str], texts: list[str]) -> None:
    assert_found(terms, [*texts, " ".join(terms), "".join(terms), *(f"{each}b" for each in terms)])


@pytest.mark.parametrize("length", range(1, 35))
def test_words_of_any_length(length: int) -> None:
    word = ("abcdefgh" * 5)[:length]
    assert_found([word], [word, word[:-1], f"{word}x", f"x{word}", f"{word[:-1]}x", word.upper()])


def test_words_that_share_slots() -> None:
    choose = random.Random(7)
    terms = sorted({"".join(choose.choices(string.ascii_lowercase, k=12)) for _ in range(20_000)})
    assert_found(terms[::2], [" ".join(terms)])


def test_words_that_are_not_ascii_are_not_found() -> None:
    assert_found(["na\u00efve", "rain"], ["naive rain na ve"])


def test_no_words_and_no_texts() -> None:
    assert_found([], ["a text"])
    assert_found(["rain"], [])
    assert_found(["rain"], ["", ""])
