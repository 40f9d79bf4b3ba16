from typing import Any
from uuid import UUID

import pytest

from shared.messages import (
    MESSAGES,
    VERSION,
    Document,
    Envelope,
    Unreadable,
    describe,
    origin,
    read_documents,
)

ENVELOPE = Envelope(UUID("0198c0de-0000-7000-8000-000000000001"), 7, 3, 20)
DOCUMENT: dict[str, Any] = {
    "id": "0198c0de-0000-7000-8000-000000000002",
    "stamp": 10,
    "accepted_at": "2026-11-21T10:00:00+00:00",
    "content": "text",
}


def test_an_envelope_survives_its_headers() -> None:
    headers = ENVELOPE.headers()
    assert Envelope.read(headers) == ENVELOPE
    assert Envelope.read({**headers, "task": "other headers do no harm"}) == ENVELOPE
    assert headers["version"] == VERSION


def test_the_task_id_is_producer_and_number() -> None:
    assert ENVELOPE.task_id == "0198c0de-0000-7000-8000-000000000001.7"


@pytest.mark.parametrize("headers", [None, {}, {"id": "x"}])
def test_no_headers_are_unreadable(headers: dict[str, Any] | None) -> None:
    with pytest.raises(Unreadable, match="headers: producer_id: Field required"):
        Envelope.read(headers)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("producer_id", "not a UUID"),
        ("producer_id", None),
        ("seq", "seven"),
        ("seq", 1.5),
        ("documents", None),
        ("documents", []),
        ("through", {}),
        ("version", VERSION + 1),
        ("version", 0),
        ("version", "x"),
    ],
)
def test_a_wrong_header_is_named(name: str, value: object) -> None:
    with pytest.raises(Unreadable, match=name):
        Envelope.read({**ENVELOPE.headers(), name: value})


@pytest.mark.parametrize("name", list(ENVELOPE.headers()))
def test_a_missing_header_is_named(name: str) -> None:
    headers = ENVELOPE.headers()
    del headers[name]
    with pytest.raises(Unreadable, match=name):
        Envelope.read(headers)


def test_documents_are_read_as_they_were_written() -> None:
    full = DOCUMENT | {
        "metadata": {"n": [1, None, {"m": 1.5}]},
        "source": "mail",
        "external_id": "x-1",
        "label": None,
        "may_exist": True,
        "request_id": "r-1",
    }
    assert read_documents([DOCUMENT, full]) == [DOCUMENT, full]


@pytest.mark.parametrize(
    ("payload", "where"),
    [
        (None, "documents: "),
        ({}, "documents: "),
        ([], "documents: : List should have at least 1 item"),
        ("text", "documents: "),
        ([None], "0"),
        ([DOCUMENT, {}], "1.id"),
        ([DOCUMENT | {"content": None}], "0.content"),
        ([DOCUMENT | {"content": 1}], "0.content"),
        ([DOCUMENT | {"stamp": "10"}], "0.stamp"),
        ([DOCUMENT | {"stamp": 10.0}], "0.stamp"),
        ([DOCUMENT | {"metadata": []}], "0.metadata"),
        ([DOCUMENT | {"metadata": None}], "0.metadata"),
        ([DOCUMENT | {"label": 1}], "0.label"),
        ([DOCUMENT | {"may_exist": 1}], "0.may_exist"),
        ([DOCUMENT | {"unknown": 1}], "0.unknown"),
    ],
)
def test_a_malformed_payload_is_unreadable_and_its_place_named(payload: Any, where: str) -> None:
    with pytest.raises(Unreadable) as unreadable:
        read_documents(payload)
    assert where in str(unreadable.value)


def test_an_error_never_holds_the_content() -> None:
    with pytest.raises(Unreadable) as unreadable:
        read_documents([DOCUMENT | {"content": ["secret"], "metadata": "secret"}])
    assert "secret" not in str(unreadable.value)


def test_a_description_names_ids_and_never_contents() -> None:
    document: Document = read_documents([DOCUMENT])[0]
    assert describe([document]) == f"1 document {DOCUMENT['id']}"
    assert describe([document] * 3) == f"3 documents {DOCUMENT['id']}, …"


def test_names_are_unique() -> None:
    assert len({message.task for message in MESSAGES}) == len(MESSAGES)


def test_a_log_line_says_where_documents_are_from() -> None:
    mine = DOCUMENT | {"request_id": "mine"}
    other = DOCUMENT | {"request_id": "other"}
    assert origin([mine]) == {"document_id": DOCUMENT["id"], "request_id": "mine"}
    assert origin([mine, mine]) == {"request_id": "mine"}
    assert origin([mine, DOCUMENT, other, mine]) == {"request_ids": ["mine", "other"]}
    assert origin([DOCUMENT, DOCUMENT]) == {}
