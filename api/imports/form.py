"""The form of an import's body: how it is cut into records, and what a record means."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol

import orjson

from api.body import parse_line
from api.imports.csv_records import Dialect, Rows
from api.imports.records import JsonArray, Lines, NotThisFormat, Record, Records
from api.schemas.document import DocumentIn
from api.schemas.problem import FieldError

FIELDS: Final = frozenset(DocumentIn.model_fields)
METADATA: Final = "metadata."


class MediaType(StrEnum):
    """What a body may be."""

    NDJSON = "application/x-ndjson"
    JSON = "application/json"
    CSV = "text/csv"


@dataclass(frozen=True, slots=True)
class Form:
    """What a request says of its body; each upload of an import says the same.

    Attributes:
        media_type: lines, array or rows.
        dialect: how rows are written.
        mapping: the column for each field of a document; empty if the header names the fields.
    """

    media_type: MediaType
    dialect: Dialect = field(default_factory=Dialect)
    mapping: Mapping[str, str] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """Return the form as JSON."""
        described: dict[str, Any] = {"media_type": self.media_type.value}
        if self.media_type is MediaType.CSV:
            described |= {
                "delimiter": self.dialect.delimiter,
                "quote": self.dialect.quote,
                "mapping": dict(self.mapping),
            }
        return described

    def records(self) -> Records:
        """Return what cuts a body of this form into records."""
        if self.media_type is MediaType.CSV:
            return Rows(self.dialect)
        return JsonArray() if self.media_type is MediaType.JSON else Lines()

    def meaning(self) -> "Meaning":
        """Return what reads the records of one body."""
        return _Columns(self) if self.media_type is MediaType.CSV else _Json()


class Meaning(Protocol):
    """Reads the records of one body, in their order.

    Attributes:
        header: the record that names the fields, once there was one.
    """

    header: bytes | None

    def is_header(self, record: Record) -> bool:
        """Return whether a record is the header, and keep it; raises NotThisFormat."""
        ...

    def value(self, raw: bytes) -> tuple[Any, list[FieldError]]:
        """Return the JSON value that a record means, and what is wrong with it."""
        ...


class _Json:
    header: bytes | None = None

    def is_header(self, record: Record) -> bool:  # noqa: ARG002  # there is none
        return False

    def value(self, raw: bytes) -> tuple[Any, list[FieldError]]:
        return parse_line(raw)


class _Columns:
    def __init__(self, form: Form) -> None:
        self.header: bytes | None = None
        self._dialect = form.dialect
        self._mapping = form.mapping
        self._columns = 0
        self._places: list[tuple[str, int]] = []

    def is_header(self, record: Record) -> bool:
        if self.header is not None:
            return False
        try:
            names = self._dialect.fields(record.raw)
        except (UnicodeDecodeError, csv.Error) as error:
            raise NotThisFormat(f"The header cannot be read: {error}.") from error
        if record.error is not None:
            raise NotThisFormat(f"The header {record.error}.")
        self._columns, self._places = len(names), _places(names, self._mapping)
        self.header = record.raw
        return True

    def value(self, raw: bytes) -> tuple[Any, list[FieldError]]:
        try:
            fields = self._dialect.fields(raw)
        except UnicodeDecodeError as error:
            return None, [FieldError.of([], f"is not UTF-8: see byte {error.start}")]
        except csv.Error as error:
            return None, [FieldError.of([], f"is no row of CSV: {error}")]
        if len(fields) != self._columns:
            detail = f"has {len(fields)} columns, and the header {self._columns}"
            return None, [FieldError.of([], detail)]
        return self._document(fields)

    def _document(self, fields: list[str]) -> tuple[Any, list[FieldError]]:
        document: dict[str, Any] = {}
        metadata: dict[str, Any] = {}
        for name, place in self._places:
            value = fields[place]
            if name == "content":
                document[name] = value
            elif not value:
                continue  # an empty cell says nothing
            elif name == "metadata":
                try:
                    document[name] = orjson.loads(value)
                except orjson.JSONDecodeError as error:
                    return None, [FieldError.of([name], f"is no JSON: {error}")]
            elif name.startswith(METADATA):
                metadata[name.removeprefix(METADATA)] = value
            else:
                document[name] = value
        if metadata:
            document["metadata"] = metadata
        return document, []


def _places(names: list[str], mapping: Mapping[str, str]) -> list[tuple[str, int]]:
    """Return each field of a document with the place of its column."""
    if twice := {name for name in names if names.count(name) > 1}:
        raise NotThisFormat(f"The header names columns twice: {_shown(twice)}.")
    if missing := set(mapping.values()) - set(names):
        raise NotThisFormat(f"The header has no column {_shown(missing)}, which the mapping names.")
    if mapping:
        return [(name, names.index(column)) for name, column in mapping.items()]
    if strange := {name for name in names if name not in FIELDS and not _is_metadata(name)}:
        raise NotThisFormat(
            f"The header has columns that are no fields of a document: {_shown(strange)}."
            " Say which column is which field, as in ?map.content=COLUMN."
        )
    if "content" not in names:
        raise NotThisFormat("The header has no column content. Say ?map.content=COLUMN.")
    if "metadata" in names and any(map(_is_metadata, names)):
        raise NotThisFormat("The header has both metadata and single keys of it.")
    return [(name, place) for place, name in enumerate(names)]


def _is_metadata(name: str) -> bool:
    return name.startswith(METADATA) and name != METADATA


def _shown(names: set[str]) -> str:
    return ", ".join(repr(name[:100]) for name in sorted(names)[:10])
