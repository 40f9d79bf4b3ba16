import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from worker.classify.vectoriser import Vectoriser

TEXTS = [
    "The rain in Spain stays mainly in the plain, the PLAIN.",
    "naïve café Straße ΣΊΣΥΦΟΣ; snake_case x86-64 a b c",
    "don't 100% e-mail\tuser@example.org\r\n\x1cfile\x0bfeed",
    "İstanbul ⅷ \uff12\uff14 \N{KELVIN SIGN}ilo 日本語 テキスト",
]
REFERENCE = TfidfVectorizer(sublinear_tf=True, dtype=np.float32).fit(TEXTS)
OURS = Vectoriser(REFERENCE.get_feature_names_out().tolist(), REFERENCE.idf_)


# So much text that its words are found in the table.
MUCH = "rain in Spain " * 2_000


def assert_equal(texts: list[str]) -> None:
    for some in (texts, [*texts, MUCH]):
        expected = REFERENCE.transform(some).toarray()
        np.testing.assert_allclose(OURS.transform(some).toarray(), expected, rtol=1e-5, atol=1e-7)


def test_gives_what_scikit_learn_gives() -> None:
    assert OURS.transform(TEXTS).nnz > 25
    assert_equal(TEXTS)


@settings(deadline=None)
@given(
    st.lists(
        st.text(st.one_of(st.sampled_from("ab_ .-'İ\u017fK\x1c\n日"), st.characters())), max_size=4
    )
)
def test_gives_what_scikit_learn_gives_for_any_text(texts: list[str]) -> None:
    assert_equal([*texts, *(f"{text} rain {text}PLAIN in" for text in texts), "in"])


def test_cuts_at_every_character_as_scikit_learn_does() -> None:
    characters = [chr(code) for code in range(0x3000)]
    assert_equal([f"rain{c}in {c}plain spain{c} in" for c in characters])


def test_rows_have_length_one_and_unknown_texts_are_zero() -> None:
    lengths = np.linalg.norm(OURS.transform(["", *TEXTS, "quux"]).toarray(), axis=1)
    np.testing.assert_allclose(lengths, [0, 1, 1, 1, 1, 0], atol=1e-6)
