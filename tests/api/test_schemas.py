"""Documents as clients send them: the checks that need no HTTP."""

from typing import Any

import pytest
from pydantic import ValidationError

from api.schemas.document import MAX_METADATA_DEPTH, DocumentIn
from api.schemas.problem import FieldError
from shared.decide import MAX_METADATA_BYTES


def validate(**fields: Any) -> DocumentIn:
    document = {"content": "fine", **fields}
    return DocumentIn.model_validate(document, context={"max_content_bytes": 10})


def errors(**fields: Any) -> list[FieldError]:
    with pytest.raises(ValidationError) as caught:
        validate(**fields)
    return [FieldError.found(each) for each in caught.value.errors()]


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = {"a": value} if (levels - level) % 2 else [value]
    return value


@pytest.mark.parametrize("content", ["x", "x" * 10, "ä" * 5, "€" * 3, "😀" * 2, "\r\n\t\x01\u2028"])
def test_content_is_measured_in_bytes(content: str) -> None:
    assert validate(content=content).content == content


@pytest.mark.parametrize("content", ["x" * 11, "ä" * 6, "€€€€", "😀😀x😀"])
def test_longer_content_is_refused(content: str) -> None:
    (error,) = errors(content=content)
    assert (error.pointer, error.detail) == (
        "/content",
        "must not be longer than 10 bytes of UTF-8",
    )


def test_metadata_at_its_limits() -> None:
    frame = len(b'{"a":""}')
    full = {"a": "x" * (MAX_METADATA_BYTES - frame)}
    assert validate(metadata=full).metadata == full
    deep = nested(MAX_METADATA_DEPTH)
    assert validate(metadata=deep).metadata == deep
    escaped = {"a": "\\u0000", "b\\0": "\\\\u0000"}
    assert validate(metadata=escaped).metadata == escaped


@pytest.mark.parametrize(
    ("metadata", "detail"),
    [
        ({"a": "x" * MAX_METADATA_BYTES}, "16384 bytes of JSON"),
        ({"a": "ä" * (MAX_METADATA_BYTES // 2)}, "16384 bytes of JSON"),
        ({"a": nested(MAX_METADATA_DEPTH)}, "deeper than 100 levels"),
        ({"a": nested(500)}, "deeper than 100 levels"),
        ({"a": {"b": ["c", "\0"]}}, "as /a/b/1 does"),
        ({"a": {"\0b": "c"}}, r"as the key /a/\u0000b does"),
    ],
    ids=["long", "long in bytes", "deep", "very deep", "NUL", "NUL in a key"],
)
def test_metadata_beyond_its_limits(metadata: Any, detail: str) -> None:
    (error,) = errors(metadata=metadata)
    assert error.pointer == "/metadata"
    assert detail in error.detail


@pytest.mark.parametrize("field", ["source", "external_id", "label"])
def test_keys(field: str) -> None:
    assert getattr(validate(**{field: "€" * 512}), field) == "€" * 512
    assert getattr(validate(**{field: None}), field) is None
    for value, detail in (
        ("", "must not be empty"),
        ("x" * 513, "must not be longer than 512 characters"),
        ("a\0", "must not contain NUL characters"),
        (7, "must be a string"),
    ):
        (error,) = errors(**{field: value})
        assert (error.pointer, error.detail) == (f"/{field}", detail)


def test_a_label_left_out_is_not_a_label_of_null() -> None:
    assert "label" not in validate().model_fields_set
    assert "label" in validate(label=None).model_fields_set


def test_pointers_are_escaped() -> None:
    assert FieldError.of(["a/b", "~", 0], "x").pointer == "/a~1b/~0/0"
    assert FieldError.of([], "x").pointer == ""
