"""Imports on a real API, broker and database, without a worker: what is taken, and what is not."""

import gzip
import re
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, Self
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import orjson
import psutil
import pytest

from tests.stack import Api, poll

pytestmark = pytest.mark.rabbitmq

URL = "/v1/imports"
NDJSON = "application/x-ndjson"


def lines(count: int, start: int = 0, size: int = 20) -> bytes:
    return b"".join(
        orjson.dumps({"content": f"{n} " + "x" * size}) + b"\n" for n in range(start, start + count)
    )


def post(
    client: httpx2.Client,
    content: bytes | Iterable[bytes],
    media_type: str = NDJSON,
    key: str | None = None,
    **more: Any,
) -> httpx2.Response:
    headers = {"Content-Type": media_type, **more.pop("headers", {})}
    if key is not None:
        headers["Idempotency-Key"] = key
    return client.post(URL, content=content, headers=headers, timeout=60, **more)


def taken(response: httpx2.Response, accepted: int, rejected: int = 0) -> dict[str, Any]:
    """Return the import of a 202, whose body was taken as a whole."""
    assert response.status_code == 202, response.text
    found: dict[str, Any] = response.json()
    assert response.headers["Location"] == f"{URL}/{found['id']}"
    assert (found["accepted"], found["rejected"]) == (accepted, rejected)
    assert found["lines"] == accepted + rejected
    return found


def rejects(client: httpx2.Client, import_id: str) -> list[dict[str, Any]]:
    response = client.get(f"{URL}/{import_id}/rejects", params={"limit": 250})
    assert response.status_code == 200, response.text
    data: list[dict[str, Any]] = response.json()["data"]
    return data


def in_flight(client: httpx2.Client) -> int:
    account = client.get("/v1/ledger").json()
    return int(account["in_flight"])


ARRAY = orjson.dumps([{"content": "one"}, {"content": "two"}], option=orjson.OPT_INDENT_2)


@pytest.mark.parametrize(
    ("body", "media_type", "query"),
    [
        (lines(2), NDJSON, {}),
        (ARRAY, "application/json", {}),
        (b"content,source\none,\ntwo,x\n", "text/csv", {}),
        (
            "who;body;n\nann;'a;\nü';1\nbob;'it''s';\n".encode(),
            "text/csv; charset=utf-8",
            {
                "delimiter": ";",
                "quote": "'",
                "map.content": "body",
                "map.metadata.author": "who",
            },
        ),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_every_form_is_taken(
    client: httpx2.Client, body: bytes, media_type: str, query: dict[str, str], packed: bool
) -> None:
    if packed:
        body = gzip.compress(body)
    headers = {"Content-Encoding": "gzip"} if packed else {}
    found = taken(post(client, body, media_type, headers=headers, params=query), 2)
    assert found["status"] == "processing"
    seen = client.get(f"{URL}/{found['id']}").json()
    assert seen["in_flight"] == seen["accepted"] == 2
    assert seen["progress"] == 0
    assert seen["finished_at"] is None


def test_an_empty_body_is_an_import_of_nothing(client: httpx2.Client) -> None:
    found = taken(post(client, b""), 0)
    done = poll(
        lambda: client.get(f"{URL}/{found['id']}").json(),
        lambda seen: seen["status"] == "done",
        seconds=10,
    )
    assert done["progress"] == 1
    assert done["eta_seconds"] == 0
    assert done["finished_at"] is not None


LONG = b'{"content": "' + b"x" * (20 << 20) + b'"}'

DIRTY = [
    (b"{no json", "is no JSON"),
    (b'{"content": "\xff"}', "is not UTF-8"),
    (b'{"content": "x", "colour": 1}', "is not a known field"),
    (b'{"content": ""}', "must not be empty"),
    (b'{"content": "x", "metadata": {"n": NaN}}', "64-bit float"),
    (b'{"content": "\\ud800"}', "surrogate"),
    (b'{"content": "a\\u0000b"}', "NUL"),
    (b'{"metadata": {}}', "is required"),
    (b"[]", "must be an object"),
    (b"{" * 100_000, "is no JSON"),
    (LONG, "must not be longer than 8388608 bytes"),
]


def test_dirty_lines_never_stop_the_good_ones(client: httpx2.Client) -> None:
    good = b'{"content": "good", "content": "the last one of a key counts"}'
    parts = [b"\xef\xbb\xbf" + good]
    for dirty, _ in DIRTY:
        parts += [dirty, b"  ", good + b"\r"]
    found = taken(post(client, b"\n".join(parts)), len(DIRTY) + 1, len(DIRTY))
    refused = rejects(client, found["id"])
    assert [each["line"] for each in refused] == [2 + 3 * n for n in range(len(DIRTY))]
    for each, (dirty, reason) in zip(refused, DIRTY, strict=True):
        assert reason in each["errors"][0]["detail"]
        assert each["truncated"] is (len(dirty) > 64 << 10)
    assert refused[0]["original"] == "{no json"
    assert refused[1]["original"] is None
    assert refused[1]["original_base64"] == "eyJjb250ZW50IjogIv8ifQ=="
    assert len(refused[-1]["original"]) == 64 << 10


def test_rejects_can_be_corrected_and_sent_again(client: httpx2.Client) -> None:
    body = b'content,source\ngood,\n,bad\n"two\nlines",a,b\nbad,x,y\n'
    found = taken(post(client, body, "text/csv"), 1, 3)
    assert [each["line"] for each in rejects(client, found["id"])] == [3, 4, 6]
    response = client.get(f"{URL}/{found['id']}/rejects", params={"format": "original"})
    assert response.headers["Content-Type"].startswith("text/csv")
    assert response.content == b'content,source\n,bad\n"two\nlines",a,b\nbad,x,y\n'
    again = response.content.replace(b",bad", b"good,bad").replace(b",a,b", b",a")
    taken(post(client, again, "text/csv"), 2, 1)


def test_rejects_of_an_array_are_an_array(client: httpx2.Client) -> None:
    found = taken(post(client, b'[1,{"content":"x"},{}]', "application/json"), 1, 2)
    response = client.get(f"{URL}/{found['id']}/rejects", params={"format": "original"})
    assert response.json() == [1, {}]
    clean = taken(post(client, b"[]", "application/json"), 0)
    response = client.get(f"{URL}/{clean['id']}/rejects", params={"format": "original"})
    assert response.json() == []


def test_rejects_come_in_pages(client: httpx2.Client) -> None:
    found = taken(post(client, b"x\n" * 30), 0, 30)
    url, seen = f"{URL}/{found['id']}/rejects?limit=7", []
    while url:
        response = client.get(url)
        seen += [each["line"] for each in response.json()["data"]]
        url = response.links.get("next", {}).get("url", "")
    assert seen == [*range(1, 31)]


@pytest.mark.parametrize(
    ("body", "media_type", "headers", "reason"),
    [
        (b"{}", "application/json", {}, "no JSON array"),
        (b"", "application/json", {}, "is empty"),
        (lines(1), NDJSON, {"Content-Encoding": "gzip"}, "is no gzip"),
        (b"a,b\n1,2\n", "text/csv", {}, "no fields of a document: 'a', 'b'"),
        (b"source\nx\n", "text/csv", {}, "no column content"),
        (b"content,content\n1,2\n", "text/csv", {}, "twice"),
        (b"\xff,content\n1,2\n", "text/csv", {}, "The header cannot be read"),
    ],
)
def test_what_is_of_another_form_fails_as_a_whole(
    client: httpx2.Client, body: bytes, media_type: str, headers: dict[str, str], reason: str
) -> None:
    key = uuid4().hex
    response = post(client, body, media_type, key, headers=headers)
    assert response.status_code == 422, response.text
    assert reason in response.json()["detail"]
    (found,) = client.get(URL, params={"idempotency_key": key}).json()["data"]
    assert (found["status"], found["accepted"]) == ("failed", 0)
    assert reason in found["error"]
    taken(post(client, lines(1), key=key), 1)


@pytest.mark.parametrize(
    ("cut", "reason", "accepted"),
    [
        (slice(-40), "ends before its gzip data does", None),
        (slice(None), "has bytes after the end", 500),
    ],
)
def test_gzip_that_is_not_whole_keeps_what_can_be_read(
    client: httpx2.Client, cut: slice, reason: str, accepted: int | None
) -> None:
    body = gzip.compress(lines(500))[cut] + (b"rubbish" if accepted else b"")
    response = post(client, body, headers={"Content-Encoding": "gzip"})
    assert response.status_code == 202
    found = response.json()
    assert found["accepted"] == accepted or 100 < found["accepted"] < 500
    (refused,) = rejects(client, found["id"])
    assert refused["line"] == found["accepted"] + 1
    assert reason in refused["errors"][0]["detail"]


@pytest.mark.parametrize(
    ("more", "status", "reason"),
    [
        ({"media_type": "text/plain"}, 415, "Content-Type"),
        ({"headers": {"Content-Encoding": "br"}}, 415, "gzip"),
        ({"params": {"delimiter": ";"}}, 422, "not for this Content-Type"),
        ({"media_type": "text/csv", "params": {"colour": "x"}}, 422, "is not known"),
        ({"media_type": "text/csv", "params": {"map.colour": "x"}}, 422, "is not known"),
        ({"media_type": "text/csv", "params": {"map.source": "x"}}, 422, "map.content"),
        ({"media_type": "text/csv", "params": {"delimiter": "ab"}}, 422, "one ASCII character"),
        ({"media_type": "text/csv", "params": {"quote": ","}}, 422, "one ASCII character"),
        ({"key": ""}, 422, "printable ASCII"),
        ({"key": "x" * 256}, 422, "printable ASCII"),
    ],
)
def test_a_wrong_request_is_refused_before_its_body(
    client: httpx2.Client, more: dict[str, Any], status: int, reason: str
) -> None:
    response = post(client, lines(1), **more)
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    assert reason in response.text


class Slow:
    """A body that is sent as far as the test says; then the connection may be cut."""

    def __init__(self, api: Api, body: bytes, key: str, media_type: str = NDJSON) -> None:
        parts = urlsplit(api.url)
        self.body = body
        self.sent = 0
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=30)
        self.socket.sendall(
            f"POST {URL} HTTP/1.1\r\nHost: x\r\nContent-Type: {media_type}\r\n"
            f"Idempotency-Key: {key}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )

    def send(self, until: int) -> None:
        self.socket.sendall(self.body[self.sent : until])
        self.sent = until

    def answer(self) -> bytes:
        """Return the answer with its body, which may come in a packet of its own."""
        found = b""
        while True:
            head, end, body = found.partition(b"\r\n\r\n")
            length = re.search(rb"\r\ncontent-length: (\d+)", head)
            if end and length and len(body) >= int(length[1]):
                return found
            received = self.socket.recv(100_000)
            if not received:
                return found
            found += received

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def import_of(client: httpx2.Client, key: str) -> dict[str, Any]:
    data = client.get(URL, params={"idempotency_key": key}).json()["data"]
    return dict(data[0]) if data else {"status": "unknown", "accepted": 0}


def has_accepted(client: httpx2.Client, key: str, count: int) -> dict[str, Any]:
    return poll(
        lambda: import_of(client, key), lambda found: found["accepted"] >= count, seconds=20
    )


def has_status(client: httpx2.Client, key: str, status: str) -> dict[str, Any]:
    return poll(lambda: import_of(client, key), lambda found: found["status"] == status, seconds=20)


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (b"bad\n" + lines(3_000), NDJSON),
        (orjson.dumps([1, *({"content": f"{n}"} for n in range(3_000))]), "application/json"),
        (b"content,source\n,bad\n" + b'"a\nb",x\n' * 3_000, "text/csv"),
    ],
)
def test_a_cut_upload_goes_on_where_it_was(
    api: Api, client: httpx2.Client, body: bytes, media_type: str
) -> None:
    key = uuid4().hex
    with Slow(api, body, key, media_type) as upload:
        upload.send(len(body) * 6 // 10 + 3)  # in mid-line
        before = has_accepted(client, key, 1_000)
        assert before["status"] == "receiving"
        assert before["progress"] + before["in_flight"] > 0
        response = post(client, body, media_type, key)
        assert response.status_code == 409
        assert response.headers["Retry-After"] == "5"
    cut = has_status(client, key, "interrupted")
    assert (cut["rejected"], cut["error"]) == (1, "The connection ended before the body did.")
    assert 1_000 < cut["accepted"] < 2_000
    assert len(rejects(client, cut["id"])) == 1

    found = taken(post(client, body, media_type, key), 3_000, 1)
    assert found["id"] == cut["id"]
    assert found["in_flight"] == 3_000  # nothing was sent twice
    again = post(client, body, media_type, key)
    assert taken(again, 3_000, 1)["id"] == cut["id"]
    assert again.json()["in_flight"] == 3_000


def test_another_body_does_not_go_on(api: Api, client: httpx2.Client) -> None:
    key, body = uuid4().hex, lines(3_000)
    with Slow(api, body, key) as upload:
        upload.send(len(body) // 2)
        has_accepted(client, key, 1_000)
    has_status(client, key, "interrupted")
    for other in (body[: len(body) // 10], b" " + body, lines(3_000, start=1), b""):
        response = post(client, other, key=key)
        assert response.status_code == 422, response.text
        assert "is not the body that the import" in response.json()["detail"]
    response = post(client, b"[]", "application/json", key)
    assert response.status_code == 422
    assert "another format" in response.json()["detail"]
    assert import_of(client, key)["status"] == "interrupted"
    taken(post(client, gzip.compress(body), key=key, headers={"Content-Encoding": "gzip"}), 3_000)


@pytest.mark.parametrize("how", ["the connection", "the process"])
def test_a_line_that_is_not_whole_is_not_taken(api: Api, client: httpx2.Client, how: str) -> None:
    key, body = uuid4().hex, b'{"content": "whole"}\n{"content": "half'
    with Slow(api, body + b"x", key) as upload:
        upload.send(len(body))
        has_accepted(client, key, 1)
    found = has_status(client, key, "interrupted")
    assert (found["accepted"], found["rejected"]) == (1, 0)


def test_an_upload_is_cancelled(api: Api, client: httpx2.Client) -> None:
    key, body = uuid4().hex, lines(3_000)
    with Slow(api, body, key) as upload:
        upload.send(len(body) // 2)
        found = has_accepted(client, key, 1_000)
        assert client.delete(f"{URL}/{found['id']}").status_code == 204
        answer = upload.answer()
        assert b"409 Conflict" in answer
        assert b"was cancelled" in answer
    seen = client.get(f"{URL}/{found['id']}").json()
    assert seen["status"] == "cancelled"
    assert seen["accepted"] >= 1_000
    assert client.delete(f"{URL}/{found['id']}").status_code == 204
    assert post(client, body, key=key).status_code == 409


def test_what_has_ended_is_not_cancelled(client: httpx2.Client) -> None:
    found = taken(post(client, lines(1)), 1)
    response = client.delete(f"{URL}/{found['id']}")
    assert response.status_code == 409
    for url in (f"{URL}/{uuid4()}", f"{URL}/{uuid4()}/rejects"):
        assert client.get(url).status_code == 404
        assert client.get(url, params={"format": "original"}).status_code in {404, 200}
    assert client.get(f"{URL}/{uuid4()}/rejects?format=original").status_code == 404
    assert client.delete(f"{URL}/{uuid4()}").status_code == 404


def test_two_uploads_at_once_do_not_mix(client: httpx2.Client) -> None:
    answers: dict[str, httpx2.Response] = {}

    def upload(name: str) -> None:
        answers[name] = post(client, lines(2_000) + b"bad\n" * (name == "two"))

    threads = [threading.Thread(target=upload, args=(name,)) for name in ("one", "two")]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    one, two = taken(answers["one"], 2_000), taken(answers["two"], 2_000, 1)
    assert one["in_flight"] == two["in_flight"] == 2_000


def test_lists_come_in_pages(client: httpx2.Client) -> None:
    made = [taken(post(client, b"bad\n"), 0, 1)["id"] for _ in range(4)]
    url, seen = f"{URL}?limit=2", []
    while url:
        response = client.get(url)
        seen += [each["id"] for each in response.json()["data"]]
        url = response.links.get("next", {}).get("url", "")
    assert seen[:4] == made[::-1]
    assert len(set(seen)) == len(seen)
    failed = client.get(URL, params={"status": "failed", "limit": 250}).json()["data"]
    assert all(each["status"] == "failed" for each in failed)


def test_a_cursor_of_another_list_is_refused(client: httpx2.Client) -> None:
    found = taken(post(client, b"x\n" * 2), 0, 2)
    taken(post(client, b""), 0)
    cursors = {
        url: client.get(url, params={"limit": 1}).json()["next_cursor"]
        for url in (URL, f"{URL}/{found['id']}/rejects")
    }
    for url in cursors:
        for other, cursor in cursors.items():
            response = client.get(url, params={"cursor": cursor})
            assert response.status_code == (200 if other == url else 422), response.text


def much(megabytes: int) -> Iterator[bytes]:
    part = lines(500, size=1_900)
    for _ in range(megabytes):
        yield part


def test_memory_is_bounded_and_others_are_served(api: Api, client: httpx2.Client) -> None:
    """A hundred megabytes, of which a fifth is lines that are far too long."""
    process = psutil.Process(api.pids()[0])
    taken(post(client, much(2)), 1_000)
    before, most, slowest = process.memory_info().rss, 0, 0.0
    body = [*much(80), LONG + b"\n"]
    done = threading.Event()
    answers: list[httpx2.Response] = []

    def upload() -> None:
        answers.append(post(client, iter(body)))
        done.set()

    thread = threading.Thread(target=upload)
    thread.start()
    with api.client() as other:
        while not done.wait(0.05):
            start = time.perf_counter()
            assert other.get("/livez").status_code == 200
            slowest = max(slowest, time.perf_counter() - start)
            most = max(most, process.memory_info().rss)
    thread.join()
    taken(answers[0], 40_000, 1)
    assert (most - before) >> 20 <= 100
    assert slowest < 2
