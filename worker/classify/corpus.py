"""Labelled documents: the 20 newsgroups, or a user's own NDJSON or CSV file."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import orjson
from sklearn.datasets import fetch_20newsgroups

FORMATS = ("ndjson", "csv")

# The csv module refuses fields above 128 KiB; a document may have 1 MiB, each byte quoted.
LARGEST_FIELD = 2**24


class CorpusError(Exception):
    """Documents that cannot be used: one line with the file, the line in it and the reason."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """N labelled documents, each in one or more variants of its text.

    `variants` maps a variant's name to N texts; all of them have the same N `labels`. `lines` says
    where each document stands in the source: the line of a file, the number of a post.
    """

    source: str
    lines: list[int]
    labels: list[str]
    variants: Mapping[str, list[str]]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> tuple[str, ...]:
        """The distinct labels, sorted."""
        return tuple(sorted(set(self.labels)))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all labels and texts in order, each with its length before it."""
        digest = sha256()
        for strings in (self.labels, *self.variants.values()):
            for string in strings:
                content = string.encode("utf-8", "surrogatepass")
                digest.update(len(content).to_bytes(8, "big") + content)
        return digest.hexdigest()

    def take(self, indices: Iterable[int]) -> "Corpus":
        """Return the documents at `indices`, in that order, with all of their variants."""
        chosen = list(indices)
        texts = {name: [v[i] for i in chosen] for name, v in self.variants.items()}
        lines, labels = [self.lines[i] for i in chosen], [self.labels[i] for i in chosen]
        return Corpus(self.source, lines, labels, texts)

    def check_trainable(self) -> None:
        """Raise `CorpusError` unless there are two classes, each with two documents or more."""
        counts = Counter(self.labels)
        if len(counts) < 2:  # noqa: PLR2004 - nothing to tell apart
            raise CorpusError(f"{self.source}: there is only one class ({self.labels[0]})")
        lonely = [label for label in self.classes if counts[label] == 1]
        if lonely:
            line = self.lines[self.labels.index(lonely[0])]
            raise CorpusError(f"{self.source}:{line}: the only example of class {lonely[0]!r}")


def newsgroups(subset: str, data_home: str | None, *variants: str) -> Corpus:
    """Return the posts of one official `subset` (`train` or `test`), oldest first in each group.

    `variants` are `whole` and `stripped` (headers, footers and quotes removed). `data_home` is
    scikit-learn's: None for its default, which SCIKIT_LEARN_DATA sets. Nothing is downloaded.
    """
    remove = {"whole": (), "stripped": ("headers", "footers", "quotes")}
    try:
        bunches = {
            name: fetch_20newsgroups(
                data_home=data_home,
                subset=subset,
                shuffle=False,
                remove=remove[name],
                download_if_missing=False,
            )
            for name in variants
        }
    except OSError as error:
        where = data_home or "scikit-learn's data folder (SCIKIT_LEARN_DATA)"
        raise CorpusError(f"20newsgroups: not in {where}: {error}") from error
    first = bunches[variants[0]]
    labels = [first.target_names[i] for i in first.target]
    texts = {name: list(bunch.data) for name, bunch in bunches.items()}
    # Posts are named by the number under which they arrived in their group.
    arrivals = [int(Path(name).name) for name in first.filenames]
    corpus = Corpus(f"20newsgroups {subset}", arrivals, labels, texts)
    return corpus.take(np.argsort(arrivals, kind="stable").tolist())


def read(path: Path, *, text_field: str, label_field: str, file_format: str | None) -> Corpus:
    """Return the documents of an NDJSON or CSV file (`file_format`, else by extension).

    Raises `CorpusError` at the first document without a text and a label.
    """
    chosen = file_format or path.suffix.removeprefix(".").lower().replace("jsonl", "ndjson")
    if chosen not in FORMATS:
        raise CorpusError(f"{path}: neither .ndjson nor .csv; say which it is with --format")
    content = _decode(path)
    rows = _ndjson(path, content) if chosen == "ndjson" else _csv(path, content)
    lines: list[int] = []
    texts: list[str] = []
    labels: list[str] = []
    for line, row in rows:
        lines.append(line)
        texts.append(_value(row, text_field, f"{path}:{line}"))
        labels.append(_value(row, label_field, f"{path}:{line}"))
    if not texts:
        raise CorpusError(f"{path}: holds no document")
    return Corpus(str(path), lines, labels, {"whole": texts})


def _decode(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror or type(error).__name__}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise CorpusError(f"{path}:{line}: not UTF-8 ({error.reason})") from error


def _ndjson(path: Path, content: str) -> Iterator[tuple[int, dict[str, object]]]:
    # Not splitlines(): U+2028 and its kin may stand inside a JSON string.
    for line, text in enumerate(content.split("\n"), 1):
        if not text.strip():
            continue
        try:
            row = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise CorpusError(f"{path}:{line}: not JSON ({error.msg})") from error
        if not isinstance(row, dict):
            raise CorpusError(f"{path}:{line}: not a JSON object")
        yield line, row


def _csv(path: Path, content: str) -> Iterator[tuple[int, dict[str, object]]]:
    csv.field_size_limit(LARGEST_FIELD)
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    line = 1
    try:
        head = next(reader, [])
        line = reader.line_num + 1
        for values in reader:
            if values:
                yield line, dict(zip(head, values, strict=False))
            line = reader.line_num + 1
    except csv.Error as error:
        raise CorpusError(f"{path}:{line}: not CSV ({error})") from error


def _value(row: dict[str, object], field: str, where: str) -> str:
    if row.get(field) is None:
        raise CorpusError(f"{where}: no field {field!r}")
    value = row[field]
    if not isinstance(value, str):
        raise CorpusError(f"{where}: {field!r} is not a text")
    if not value.strip():
        raise CorpusError(f"{where}: {field!r} is empty")
    return value
