from collections.abc import Callable
from pathlib import Path

import pytest

from worker.classify import corpus
from worker.classify.corpus import Corpus, CorpusError

GOOD = b'{"content": "a text", "category": "x"}\n'


def read(path: Path, file_format: str | None = None) -> Corpus:
    return corpus.read(path, text_field="content", label_field="category", file_format=file_format)


def write(tmp_path: Path, content: bytes, name: str = "d.ndjson") -> Path:
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


BAD_NDJSON = {
    "bad JSON": (GOOD + b'{"content": \n', ":2: not JSON ("),
    "deep nesting": (GOOD * 2 + b"[" * 100_000 + b"\n", ":3: not JSON ("),
    "no object": (GOOD + b'["a", "b"]\n', ":2: not a JSON object"),
    "no text": (GOOD + b'{"category": "x"}\n', ":2: no field 'content'"),
    "no label": (GOOD + b'{"content": "a"}\n', ":2: no field 'category'"),
    "null label": (b'{"content": "a", "category": null}\n', ":1: no field 'category'"),
    "number": (b'{"content": 7, "category": "x"}\n', ":1: 'content' is not a text"),
    "empty text": (GOOD + b"\n" + b'{"content": " ", "category": "x"}', ":3: 'content' is empty"),
    "empty label": (b'{"content": "a", "category": ""}\n', ":1: 'category' is empty"),
    "bad UTF-8": (GOOD * 3 + b'{"content": "\xff"}\n', ":4: not UTF-8 (invalid start byte)"),
    "nothing": (b"\n\n", ": holds no document"),
}
BAD_CSV = {
    "no text": (b"category\nx\n", ":2: no field 'content'"),
    "short row": (b"content,category\na,x\nb\n", ":3: no field 'category'"),
    "empty text": (b"content,category\na,x\n,y\n", ":3: 'content' is empty"),
    "open quote in a later line": (b'content,category\n"a\nb",x\n\n"c,y\nd', ":5: not CSV ("),
    "no label after line breaks": (b'content,category\n"a\nb"\n', ":2: no field 'category'"),
    "open quote": (b'content,category\na,x\n"b,y\n', ":3: not CSV (unexpected end of data)"),
    "bad UTF-8": (b"content,category\na,\xe9\n", ":2: not UTF-8 (invalid continuation byte)"),
    "only a head": (b"content,category\n", ": holds no document"),
}


@pytest.mark.parametrize(("content", "reason"), BAD_NDJSON.values(), ids=BAD_NDJSON.keys())
def test_bad_ndjson_is_refused_by_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(CorpusError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}{reason}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "reason"), BAD_CSV.values(), ids=BAD_CSV.keys())
def test_bad_csv_is_refused_by_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = write(tmp_path, content, "d.csv")
    with pytest.raises(CorpusError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}{reason}")


def test_ndjson_keeps_texts_as_they_are(tmp_path: Path) -> None:
    content = '\ufeff{"content": "a\\n\u2028 b", "category": "x", "more": [1]}\r\n\r\n'.encode()
    documents = read(write(tmp_path, content + GOOD))
    assert documents.variants == {"whole": ["a\n\u2028 b", "a text"]}
    assert (documents.labels, documents.lines) == (["x", "x"], [1, 3])


def test_csv_has_quotes_line_breaks_and_large_fields(tmp_path: Path) -> None:
    content = f'category,content\nx,"said ""a"",\r\nb"\ny,{"z" * 2**20}\n'.encode()
    documents = read(write(tmp_path, content, "d.CSV"))
    assert documents.variants["whole"] == ['said "a",\r\nb', "z" * 2**20]
    assert documents.labels == ["x", "y"]


def test_the_format_can_be_said(tmp_path: Path) -> None:
    path = write(tmp_path, b"content,category\na,x\n", "documents.txt")
    assert read(path, "csv").labels == ["x"]
    with pytest.raises(CorpusError, match=r"neither \.ndjson nor \.csv"):
        read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"d\.ndjson: No such file or directory$"):
        read(tmp_path / "d.ndjson")


def test_a_missing_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=f"20newsgroups: not in {tmp_path}"):
        corpus.newsgroups("test", str(tmp_path), "whole")


def test_the_fingerprint_changes_with_texts_labels_and_their_bounds() -> None:
    def fingerprint(labels: list[str], texts: list[str]) -> str:
        return Corpus("s", [1, 2], labels, {"whole": texts}).fingerprint

    same = fingerprint(["x", "y"], ["ab", "c\ud800"])
    assert fingerprint(["x", "y"], ["ab", "c\ud800"]) == same
    others = [(["x", "z"], ["ab", "c"]), (["x", "y"], ["a", "bc"]), (["xy", ""], ["ab", "c"])]
    assert len({same, *(fingerprint(*other) for other in others)}) == 4


@pytest.mark.newsgroups
def test_posts_come_in_the_order_of_arrival_with_their_variants(data_home: str) -> None:
    posts = corpus.newsgroups("test", data_home, "whole", "stripped")
    assert len(posts) == 7532
    assert posts.lines == sorted(posts.lines)
    for whole, stripped in zip(posts.variants["whole"], posts.variants["stripped"], strict=True):
        last = stripped.strip().rsplit("\n", 1)[-1]
        assert last in whole


def test_one_class_or_a_lonely_document_cannot_train(ndjson: Callable[..., Path]) -> None:
    x, y = {"content": "a", "category": "x"}, {"content": "b", "category": "y"}
    with pytest.raises(CorpusError, match=r"ndjson: there is only one class \(x\)$"):
        read(ndjson(x, x)).check_trainable()
    with pytest.raises(CorpusError, match=r"ndjson:3: the only example of class 'y'$"):
        read(ndjson(x, x, y)).check_trainable()
