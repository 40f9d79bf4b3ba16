"""Bad input over HTTP: each kind is refused, says where and why, and nothing of it is accepted."""

import gzip
import json
import re
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx2
import pytest

from tests.stack import Api, ledger, poll

pytestmark = pytest.mark.rabbitmq

ID = "0198f3c2-7a3b-7cc2-a1f0-4d3f0c2f6b11"
OTHER = "0198f3c2-7a3b-7cc2-a1f0-4d3f0c2f6b12"
MIB = 1 << 20
DOCUMENTS = "/v1/documents"
BATCH = "/v1/documents/batch"
NDJSON = {"Content-Type": "application/x-ndjson"}
JSON = {"Content-Type": "application/json"}
GZIP = {**JSON, "Content-Encoding": "gzip"}
SURROGATE = "must not contain half of a surrogate pair"
NUMBER = "must be a number that a 64-bit float can hold"
UNKNOWN = "is not a known field"


class Case(NamedTuple):
    """A request and how it is refused; `pointer` is None where no field is to blame."""

    name: str
    body: bytes
    status: int
    pointer: str | None
    reason: str
    path: str = DOCUMENTS
    headers: dict[str, str] = JSON
    method: str = "POST"


def document(**fields: Any) -> bytes:
    return json.dumps({"content": "fine", **fields}).encode()


def batch(*documents: dict[str, Any]) -> bytes:
    return json.dumps(documents).encode()


def nested(levels: int) -> bytes:
    """Return a document whose metadata is nested `levels` deep, itself included."""
    inner = b'{"a":' * levels + b"1" + b"}" * levels
    return b'{"content":"fine","metadata":' + inner + b"}"


def raw(fields: str) -> bytes:
    return b'{"content":"fine",' + fields.encode() + b"}"


FINE = {"content": "fine"}

MALFORMED = (
    Case("no body", b"", 400, None, "no JSON"),
    Case("half an object", b'{"content":"x"', 400, None, "no JSON"),
    Case("two values", b'{"content":"x"} {}', 400, None, "no JSON"),
    Case("single quotes", b"{'content':'x'}", 400, None, "no JSON"),
    Case("comment", b'{"content":"x"} // y', 400, None, "no JSON"),
    Case("trailing comma", b'{"content":"x",}', 400, None, "no JSON"),
    Case("raw newline in a string", b'{"content":"a\nb"}', 400, None, "no JSON"),
    Case("invalid UTF-8", b'{"content":"\xff\xfe"}', 400, None, "not UTF-8: see byte 12"),
    Case("overlong UTF-8", b'{"content":"\xc0\x80"}', 400, None, "not UTF-8: see byte 12"),
    Case("surrogate as UTF-8", b'{"content":"\xed\xa0\x80"}', 400, None, "not UTF-8: see byte 12"),
    Case("UTF-16", '{"content":"x"}'.encode("utf-16"), 400, None, "not UTF-8: see byte 0"),
    Case("nested 5,000 levels", nested(5_000), 400, None, "no JSON"),
    Case("8 MiB of brackets", b"[" * (8 * MIB), 400, None, "no JSON"),
)

WRONG_TYPES = (
    Case("an array", b"[]", 422, "", "must be an object"),
    Case("a string", b'"fine"', 422, "", "must be an object"),
    Case("null", b"null", 422, "", "must be an object"),
    Case("content missing", b"{}", 422, "/content", "is required"),
    Case("content null", document(content=None), 422, "/content", "must be a string"),
    Case("content a number", document(content=1), 422, "/content", "must be a string"),
    Case("content an array", document(content=["a"]), 422, "/content", "must be a string"),
    Case("id no UUID", document(id="4711"), 422, "/id", "must be a UUID"),
    Case("id a number", document(id=1), 422, "/id", "must be a UUID"),
    Case("source a number", document(source=1), 422, "/source", "must be a string"),
    Case("external_id true", document(external_id=True), 422, "/external_id", "must be a string"),
    Case("metadata an array", document(metadata=[]), 422, "/metadata", "must be an object"),
    Case("metadata a string", document(metadata="{}"), 422, "/metadata", "must be an object"),
    Case("label an object", document(label={}), 422, "/label", "must be a string"),
    Case("unknown field", document(colour="red"), 422, "/colour", UNKNOWN),
    Case("unknown field a/b~c", document(**{"a/b~c": 1}), 422, "/a~1b~0c", UNKNOWN),
    Case("a field of ours", document(revision=1), 422, "/revision", UNKNOWN),
)

SIZES = (
    Case("content empty", document(content=""), 422, "/content", "must not be empty"),
    Case("content 1 byte over", document(content="x" * (MIB + 1)), 422, "/content", "1048576"),
    Case(
        "content over in bytes, not in characters",
        document(content="€" * (MIB // 3 + 1)),
        422,
        "/content",
        "must not be longer than 1048576 bytes of UTF-8",
    ),
    Case("source empty", document(source=""), 422, "/source", "must not be empty"),
    Case("label empty", document(label=""), 422, "/label", "must not be empty"),
    Case("source long", document(source="x" * 513), 422, "/source", "512 characters"),
    Case("external_id long", document(external_id="x" * 513), 422, "/external_id", "512 char"),
    Case(
        "metadata over 16 KiB",
        document(metadata={"a": "x" * (16_384 - 7)}),
        422,
        "/metadata",
        "must not be longer than 16384 bytes of JSON",
    ),
    Case("metadata nested 101 levels", nested(101), 422, "/metadata", "deeper than 100 levels"),
    Case("body over 8 MiB", b" " * (8 * MIB + 1), 413, None, "more than 8388608 bytes"),
)

CHARACTERS = (
    Case("NUL in content", document(content="a\0b"), 422, "/content", "NUL"),
    Case("NUL in source", document(source="a\0"), 422, "/source", "NUL"),
    Case("NUL in external_id", document(external_id="\0"), 422, "/external_id", "NUL"),
    Case("NUL in label", document(label="a\0"), 422, "/label", "NUL"),
    Case("NUL in a value", document(metadata={"a": ["\0"]}), 422, "/metadata", "as /a/0 does"),
    Case(
        "NUL in a key",
        document(metadata={"a": {"b\0": 1}}),
        422,
        "/metadata",
        "as the key /a/b\\u0000 does",
    ),
    Case("surrogate in content", raw(r'"content":"\ud800"'), 422, "/content", SURROGATE),
    Case("surrogates reversed", raw(r'"content":"\udc00\ud800"'), 422, "/content", SURROGATE),
    Case("surrogate in source", raw(r'"source":"\udfff"'), 422, "/source", SURROGATE),
    Case(
        "surrogate in a value",
        raw(r'"metadata":{"a":[1,"\ud800x"]}'),
        422,
        "/metadata/a/1",
        SURROGATE,
    ),
    Case(
        "surrogate in a key", raw(r'"metadata":{"\ud800":1}'), 422, r"/metadata/\ud800", SURROGATE
    ),
)

NUMBERS = (
    Case("NaN", raw('"metadata":{"n":NaN}'), 422, "/metadata/n", NUMBER),
    Case("Infinity", raw('"metadata":{"n":-Infinity}'), 422, "/metadata/n", NUMBER),
    Case("1e999", raw('"metadata":{"n":1e999}'), 422, "/metadata/n", NUMBER),
    Case("-1e999 deep", raw('"metadata":{"a":[{"b":-1e999}]}'), 422, "/metadata/a/0/b", NUMBER),
    Case("5,000 digits", raw(f'"metadata":{{"n":{"9" * 5_000}}}'), 422, "/metadata/n", NUMBER),
    Case("5,000 digits as content", raw(f'"content":{"9" * 5_000}'), 422, "/content", NUMBER),
)

TYPES = (
    Case("no type", document(), 415, None, "Content-Type: application/json", headers={}),
    Case(
        "text",
        document(),
        415,
        None,
        "Send Content-Type: application/json; the request had 'text/plain'",
        headers={"Content-Type": "text/plain"},
    ),
    Case(
        "a form, as curl -d sends it",
        b"content=x",
        415,
        None,
        "Send Content-Type: application/json",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    ),
    Case("lines as one document", document(), 415, None, "application/json", headers=NDJSON),
    Case(
        "a batch of another type",
        batch(FINE),
        415,
        None,
        "Content-Type: application/json or Content-Type: application/x-ndjson",
        BATCH,
        {"Content-Type": "text/csv"},
    ),
    Case(
        "brotli",
        document(),
        415,
        None,
        "Send Content-Encoding: gzip or none; the request had 'br'",
        headers={**JSON, "Content-Encoding": "br"},
    ),
    Case(
        "gzip twice",
        gzip.compress(gzip.compress(document())),
        415,
        None,
        "Content-Encoding: gzip or none",
        headers={**JSON, "Content-Encoding": "gzip, gzip"},
    ),
    Case("no gzip", document(), 400, None, "not gzip", headers=GZIP),
    Case("no gzip at all", b"", 400, None, "ends before", headers=GZIP),
    Case("gzip cut off", gzip.compress(document())[:-4], 400, None, "ends before", headers=GZIP),
    Case(
        "gzip and more", gzip.compress(document()) + b"garbage", 400, None, "not gzip", headers=GZIP
    ),
    Case("bomb", gzip.compress(b" " * (100 * MIB)), 413, None, "8388608 bytes", headers=GZIP),
    Case(
        "bomb of many members",
        gzip.compress(b" " * MIB) * 100,
        413,
        None,
        "8388608 bytes",
        headers=GZIP,
    ),
)

BATCHES = (
    Case("no array", document(), 422, "", "must be an array of documents", BATCH),
    Case("nothing", batch(), 422, "", "must have 1 to 1000 documents", BATCH),
    Case("no lines", b"\n\r\n", 422, "", "must have 1 to 1000 documents", BATCH, NDJSON),
    Case("too many", batch(*[FINE] * 1_001), 422, "", "must have 1 to 1000 documents", BATCH),
    Case(
        "too many lines",
        document() * 1 + b"\n" + (document() + b"\n") * 1_000,
        422,
        "",
        "must have 1 to 1000 documents",
        BATCH,
        NDJSON,
    ),
    Case("an item no object", batch(FINE, 1), 422, "/1", "must be an object", BATCH),  # type: ignore[arg-type]  # that is the point
    Case("an item wrong", batch(FINE, {"content": ""}), 422, "/1/content", "not be empty", BATCH),
    Case("unknown field", batch({**FINE, "a": 1}), 422, "/0/a", UNKNOWN, BATCH),
    Case("NaN", b'[{"content":"x","metadata":{"a":NaN}}]', 422, "/0/metadata/a", NUMBER, BATCH),
    Case("malformed", b'[{"content":"x"}', 400, None, "no JSON", BATCH),
    Case(
        "an id twice",
        batch({**FINE, "id": ID}, FINE, {**FINE, "id": ID.upper()}),
        422,
        "/2/id",
        "must not be the same document as item 0",
        BATCH,
    ),
    Case(
        "an external_id twice",
        batch(
            {**FINE, "external_id": "a", "source": "s"}, {**FINE, "source": "s", "external_id": "a"}
        ),
        422,
        "/1/external_id",
        "must not be the same document as item 0",
        BATCH,
    ),
    Case(
        "a line no JSON",
        document() + b"\n\n{\n",
        422,
        "/1",
        "line 3: is no JSON",
        BATCH,
        NDJSON,
    ),
    Case(
        "a line wrong",
        document() + b"\r\n{}\r\n",
        422,
        "/1/content",
        "line 2: is required",
        BATCH,
        NDJSON,
    ),
    Case(
        "a line not UTF-8",
        b'\n{"content":"\xff"}',
        422,
        "/0",
        "line 2: is not UTF-8: see byte 12",
        BATCH,
        NDJSON,
    ),
    Case(
        "a line with NaN",
        raw('"metadata":{"a":NaN}'),
        422,
        "/0/metadata/a",
        f"line 1: {NUMBER}",
        BATCH,
        NDJSON,
    ),
    Case(
        "atomic of another kind",
        batch(FINE),
        422,
        "/query/atomic",
        "boolean",
        f"{BATCH}?atomic=perhaps",
    ),
    Case("unknown parameter", batch(FINE), 422, "/query/atomik", UNKNOWN, f"{BATCH}?atomik=false"),
)

PLACES = (
    Case(
        "PUT under another id",
        document(id=OTHER),
        422,
        "/id",
        "must be the id in the path",
        f"{DOCUMENTS}/{ID}",
        JSON,
        "PUT",
    ),
    Case(
        "PUT under no UUID",
        document(),
        422,
        "/path/document_id",
        "must be a UUID",
        f"{DOCUMENTS}/4711",
        JSON,
        "PUT",
    ),
    Case(
        "GET of no UUID",
        b"",
        422,
        "/path/document_id",
        "must be a UUID",
        f"{DOCUMENTS}/4711",
        {},
        "GET",
    ),
    Case(
        "DELETE of no UUID",
        b"",
        422,
        "/path/document_id",
        "must be a UUID",
        f"{DOCUMENTS}/4711",
        {},
        "DELETE",
    ),
    Case(
        "a cursor of nobody's",
        b"",
        422,
        "/query/cursor",
        "is not a cursor of this list",
        f"{DOCUMENTS}?cursor=abc",
        {},
        "GET",
    ),
    Case(
        "a cursor not ASCII",
        b"",
        422,
        "/query/cursor",
        "is not a cursor of this list",
        f"{DOCUMENTS}?cursor=%C3%A4",
        {},
        "GET",
    ),
    Case(
        "an empty cursor",
        b"",
        422,
        "/query/cursor",
        "is not a cursor of this list",
        f"{DOCUMENTS}?cursor=",
        {},
        "GET",
    ),
    Case(
        "a cursor from the year 30000",
        b"",
        422,
        "/query/cursor",
        "is not a cursor of this list",
        f"{DOCUMENTS}?cursor={'_' * 32}",
        {},
        "GET",
    ),
    Case(
        "limit 0",
        b"",
        422,
        "/query/limit",
        "must be 1 or more",
        f"{DOCUMENTS}?limit=0",
        {},
        "GET",
    ),
    Case(
        "limit 251",
        b"",
        422,
        "/query/limit",
        "must be 250 or less",
        f"{DOCUMENTS}?limit=251",
        {},
        "GET",
    ),
    Case("limit many", b"", 422, "/query/limit", "integer", f"{DOCUMENTS}?limit=many", {}, "GET"),
    Case(
        "unknown status",
        b"",
        422,
        "/query/status",
        "'stored' or 'failed'",
        f"{DOCUMENTS}?status=lost",
        {},
        "GET",
    ),
    Case(
        "unknown filter", b"", 422, "/query/colour", UNKNOWN, f"{DOCUMENTS}?colour=red", {}, "GET"
    ),
    Case(
        "NUL in a filter",
        b"",
        422,
        "/query/source",
        "must not contain NUL characters",
        f"{DOCUMENTS}?source=a%00b",
        {},
        "GET",
    ),
    Case("unknown route", b"", 404, None, "Not Found", "/v1/letters", {}, "GET"),
    Case(
        "unknown route below a document",
        b"",
        404,
        None,
        "Not Found",
        f"{DOCUMENTS}/{ID}/x",
        {},
        "GET",
    ),
    Case("wrong method", b"", 405, None, "Method Not Allowed", DOCUMENTS, {}, "DELETE"),
)

REFUSED = MALFORMED + WRONG_TYPES + SIZES + CHARACTERS + NUMBERS + TYPES + BATCHES + PLACES


def send(client: httpx2.Client, case: Case) -> httpx2.Response:
    return client.request(case.method, case.path, content=case.body, headers=case.headers)


def messages_so_far(client: httpx2.Client) -> int:
    """Send a good document; return how many messages the API has numbered by then."""
    response = client.post(DOCUMENTS, json={"content": "a good document"})
    assert response.status_code == 202, response.text
    return int(response.json()["task_id"].partition(".")[2])


@pytest.fixture
def nothing_accepted(client: httpx2.Client) -> Iterator[None]:
    """See that a test makes the API send no message."""
    before = messages_so_far(client)
    yield
    assert messages_so_far(client) == before + 1


def check_problem(response: httpx2.Response, status: int, reason: str) -> dict[str, Any]:
    """Check what all errors have in common; return the problem."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    assert problem["type"] == "about:blank"
    assert problem["title"]
    assert problem["instance"] == response.request.url.path
    assert problem["request_id"] == response.headers["X-Request-Id"]
    assert reason in json.dumps(problem, ensure_ascii=False).replace("\\\\", "\\")
    return problem


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case.path[13:]} {case.name}".strip())
def test_is_refused(client: httpx2.Client, nothing_accepted: None, case: Case) -> None:
    problem = check_problem(send(client, case), case.status, case.reason)
    errors = problem.get("errors", [])
    if case.pointer is None:
        assert not errors
    else:
        assert [case.reason in error["detail"] for error in errors] == [True]
        assert errors[0]["pointer"] == case.pointer


def test_the_ledger_knows_nothing_of_them(client: httpx2.Client) -> None:
    sent = messages_so_far(client)
    poll(lambda: ledger(client)["accepted"], lambda accepted: accepted == sent, seconds=10)
    for case in REFUSED:
        send(client, case)
    assert messages_so_far(client) == sent + 1
    # One document a message: a refused one that was counted after all would be one too many.
    poll(lambda: ledger(client)["accepted"], lambda accepted: accepted > sent, seconds=10)
    account = ledger(client)
    assert (account["accepted"], account["void"]) == (sent + 1, 0)


def test_all_that_is_wrong_is_said_at_once(client: httpx2.Client, nothing_accepted: None) -> None:
    body = {"content": 1, "id": "x", "source": "", "colour": "red"}
    problem = check_problem(client.post(DOCUMENTS, json=body), 422, "The document has wrong fields")
    pointers = {error["pointer"] for error in problem["errors"]}
    assert pointers == {"/content", "/id", "/source", "/colour"}


def test_every_wrong_item_of_a_batch_is_named(
    client: httpx2.Client, nothing_accepted: None
) -> None:
    items = [FINE, {"content": ""}, FINE, {"content": 1, "id": 2}, "x"]
    problem = check_problem(client.post(BATCH, json=items), 422, "Nothing was accepted")
    pointers = [error["pointer"] for error in problem["errors"]]
    assert pointers == ["/1/content", "/3/content", "/3/id", "/4"]


@pytest.mark.parametrize(
    ("body", "headers", "path"),
    [
        (b'{"content":"x","metadata":[' + b"NaN," * 500_000 + b"1]}", JSON, DOCUMENTS),
        (b"{" + b",".join(b'"a%d":1' % n for n in range(300_000)) + b"}", JSON, DOCUMENTS),
        (b"1\n" * 2_000_000, NDJSON, BATCH),
        (b"[" + b"1," * 2_000_000 + b"1]", JSON, BATCH),
    ],
    ids=["numbers", "unknown fields", "lines", "items"],
)
def test_a_body_wrong_in_a_million_places_costs_little(
    client: httpx2.Client, nothing_accepted: None, body: bytes, headers: dict[str, str], path: str
) -> None:
    """A body of a few megabytes must neither hold up everybody else nor grow into its answer."""
    response = client.post(path, content=body, headers=headers)
    check_problem(response, 422, "")
    assert len(response.content) < 100_000
    assert response.elapsed.total_seconds() < 3


def test_a_hundred_megabytes_are_refused(client: httpx2.Client, nothing_accepted: None) -> None:
    check_problem(client.post(DOCUMENTS, content=b"x" * 100 * MIB, headers=JSON), 413, "8388608")


def test_a_hundred_megabytes_in_chunks_are_refused(api: Api, nothing_accepted: None) -> None:
    """The answer comes while the body is still being sent."""
    head = f"POST {DOCUMENTS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as connection:
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        sent = 0
        chunk = f"{MIB:x}\r\n".encode() + b" " * MIB + b"\r\n"
        try:
            for _ in range(100):
                connection.sendall(chunk)
                sent += MIB
            connection.sendall(b"0\r\n\r\n")
        except OSError:
            assert sent > 8 * MIB
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"application/problem+json" in answer


def test_a_hundred_megabytes_announced_are_refused_before_they_are_sent(
    api: Api, nothing_accepted: None
) -> None:
    head = f"POST {DOCUMENTS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as connection:
        announced = f"Content-Length: {100 * MIB}\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall((head + announced).encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 1e3\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    ],
)
def test_ambiguous_lengths_are_refused(api: Api, nothing_accepted: None, headers: str) -> None:
    request = f"POST {DOCUMENTS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{headers}"
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as connection:
        connection.sendall(f"{request}\r\n{'{}'}".encode())
        assert re.match(rb"HTTP/1.1 4\d\d ", connection.recv(4096))


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", DOCUMENTS, "GET, HEAD, POST"),
        ("POST", f"{DOCUMENTS}/{ID}", "DELETE, GET, HEAD, PATCH, PUT"),
        ("POST", "/v1/ledger", "GET, HEAD"),
        ("POST", "/openapi.json", "GET, HEAD"),
        ("POST", "/docs/assets/swagger-ui.css", "GET, HEAD"),
    ],
)
def test_the_wrong_method_says_which_are_right(
    client: httpx2.Client, method: str, path: str, allowed: str
) -> None:
    response = client.request(method, path)
    assert response.status_code == 405
    assert response.headers["Allow"] == allowed


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (DOCUMENTS, 200),
        (f"{DOCUMENTS}/{ID}", 404),
        (f"{DOCUMENTS}/x", 422),
        ("/v1/ledger", 200),
        ("/readyz", 200),
        ("/openapi.json", 200),
        ("/docs/assets/swagger-ui.css", 200),
    ],
)
def test_head_is_answered_as_get_without_the_body(
    client: httpx2.Client, path: str, status: int
) -> None:
    get, head = client.get(path), client.head(path)
    assert (get.status_code, head.status_code) == (status, status)
    assert (len(get.content) > 0, head.content) == (True, b"")
    same = ("content-type", "content-length", "etag", "retry-after")
    assert [head.headers.get(name) for name in same] == [get.headers.get(name) for name in same]
    assert client.get("/livez").json() == {"status": "ok"}  # nothing is left on the connection


class TestNotAtomic:
    """`?atomic=false` takes what is fine and says of each item what became of it."""

    def test_takes_what_is_fine(self, client: httpx2.Client) -> None:
        items = [{**FINE, "id": ID}, {"content": ""}, {**FINE, "id": ID}, {**FINE, "id": OTHER}]
        response = client.post(BATCH, params={"atomic": "false"}, json=items)
        assert response.status_code == 207
        answer = response.json()
        assert (answer["accepted"], answer["refused"]) == (2, 2)
        assert answer["task_id"]
        entries = answer["documents"]
        assert [each["status"] for each in entries] == [
            "accepted",
            "refused",
            "refused",
            "accepted",
        ]
        assert [each.get("id") for each in entries] == [ID, None, None, OTHER]
        assert entries[0]["revision"] < entries[3]["revision"]
        assert [each["pointer"] for each in entries[1]["errors"]] == ["/1/content"]
        assert [each["pointer"] for each in entries[2]["errors"]] == ["/2/id"]

    @pytest.mark.usefixtures("nothing_accepted")
    def test_sends_no_message_if_nothing_is_fine(self, client: httpx2.Client) -> None:
        response = client.post(BATCH, params={"atomic": "false"}, json=[1, {}])
        assert response.status_code == 207
        answer = response.json()
        assert (answer["accepted"], answer["refused"], answer["task_id"]) == (0, 2, None)

    @pytest.mark.usefixtures("nothing_accepted")
    def test_refuses_a_body_that_is_no_batch(self, client: httpx2.Client) -> None:
        response = client.post(BATCH, params={"atomic": "false"}, content=b"[1", headers=JSON)
        check_problem(response, 400, "no JSON")


class TestJustFine:
    """What is at the limit, or merely unusual, is taken."""

    @pytest.mark.parametrize(
        ("body", "headers"),
        [
            (document(content="x" * MIB), JSON),
            (json.dumps({"content": "€" * (MIB // 3)}, ensure_ascii=False).encode(), JSON),
            (document(content="€" * (MIB // 3)), JSON),
            (document(content=" "), JSON),
            (document(metadata={"a": "x" * (16_384 - 8)}), JSON),
            (nested(100), JSON),
            (document(source="x" * 512, external_id="€" * 512), JSON),
            (document(content="😀 \ud83d\ude00"), JSON),
            (document(metadata={}, source=None, external_id=None, id=None, label=None), JSON),
            (raw(f'"metadata":{{"n":{"9" * 299}}}'), JSON),
            (b" " * (8 * MIB - 30) + document(), JSON),
            (document(), {"Content-Type": "application/json; charset=utf-8"}),
            (document(), {"Content-Type": "APPLICATION/JSON"}),
            (document(), {**JSON, "Content-Encoding": "identity"}),
            (gzip.compress(document()), GZIP),
            (gzip.compress(document()[:9]) + gzip.compress(document()[9:]), GZIP),
        ],
        ids=[
            "1 MiB",
            "1 MiB of €",
            "1 MiB of € escaped",
            "a space",
            "16 KiB of metadata",
            "100 levels",
            "512 characters",
            "surrogate pair",
            "nulls",
            "299 digits",
            "8 MiB body",
            "charset",
            "upper case",
            "identity",
            "gzip",
            "gzip of two members",
        ],
    )
    def test_document(self, client: httpx2.Client, body: bytes, headers: dict[str, str]) -> None:
        response = client.post(DOCUMENTS, content=body, headers=headers)
        assert response.status_code == 202, response.text

    @pytest.mark.parametrize(
        ("body", "headers", "count"),
        [
            (batch(*[FINE] * 1_000), JSON, 1_000),
            (document() + b"\n" + document(), NDJSON, 2),
            (b"\r\n" + document() + b"\r\n\r\n  \r\n" + document() + b"\r\n", NDJSON, 2),
            (
                gzip.compress((document() + b"\n") * 1_000),
                {**NDJSON, "Content-Encoding": "gzip"},
                1_000,
            ),
            (
                batch({**FINE, "external_id": "a"}, {**FINE, "external_id": "a", "source": "b"}),
                JSON,
                2,
            ),
        ],
        ids=[
            "1,000",
            "no newline at the end",
            "CRLF and blank lines",
            "gzip",
            "same key, two sources",
        ],
    )
    def test_batch(
        self, client: httpx2.Client, body: bytes, headers: dict[str, str], count: int
    ) -> None:
        response = client.post(BATCH, content=body, headers=headers)
        assert response.status_code == 202, response.text
        assert response.json()["accepted"] == count == len(response.json()["documents"])


class TestRequestId:
    def test_is_echoed(self, client: httpx2.Client) -> None:
        sent = "order-4711/~!" + "x" * 115
        assert client.get("/livez", headers={"X-Request-Id": sent}).headers["X-Request-Id"] == sent

    @pytest.mark.parametrize(
        "hostile",
        [b"", b"a b", b"x" * 129, b"x" * 10_240, b"a\tb", "ä".encode(), b"\xff", b"a,\x80b"],
        ids=["empty", "space", "129", "10 KB", "tab", "UTF-8", "byte", "control"],
    )
    def test_is_replaced_when_hostile(self, client: httpx2.Client, hostile: bytes) -> None:
        response = client.get("/livez", headers=[(b"X-Request-Id", hostile)])
        assert response.status_code == 200
        assert re.fullmatch("[0-9a-f]{32}", response.headers["X-Request-Id"])

    @pytest.mark.parametrize("hostile", [b"a\rSet-Cookie: x=1", b"a\0b", b"a\nSet-Cookie: x=1"])
    def test_cannot_inject_headers(self, api: Api, hostile: bytes) -> None:
        with socket.create_connection(("127.0.0.1", api.port), timeout=10) as connection:
            request = b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-Id: " + hostile + b"\r\n\r\n"
            connection.sendall(request)
            answer = connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 ")
        assert b"Set-Cookie" not in answer
        assert b"\0" not in answer


@pytest.mark.parametrize(
    "path", ["/v1/documents/reclassify", "/v1/dead-letters/replay", "/v1/classify", DOCUMENTS]
)
def test_a_body_of_very_many_fields_gets_one_error(client: httpx2.Client, path: str) -> None:
    answer = client.post(path, json={f"field {number}": 1 for number in range(1_000)})
    assert answer.status_code == 422
    assert [each["detail"] for each in answer.json()["errors"]] == [
        "must not have more than 20 fields"
    ]
