"""Exports: whole, faithful, from one snapshot, and cut off where they cannot be completed."""

import asyncio
import contextlib
import csv
import gzip
import io
import json
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random
from threading import Event
from uuid import UUID

import httpx2
import orjson
import pytest
from sqlalchemy import text
from starlette.types import Message

from api import exports
from api.exports import Csv, ExportResponse, Exports, Ndjson, takes_gzip
from api.schemas.document import DocumentOut
from local.ports import LOOPBACK
from shared.db import Database
from shared.revision import Clock
from shared.store.listings import Listing
from tests.background import Background
from tests.faults.proxy import Proxy
from tests.shared.store.samples import Sender, document_id, put
from tests.stack import Api, poll

EXPORT = "/v1/documents/export"
ONE, TWO, THREE = (document_id(number) for number in range(1, 4))
PLAIN = {"Accept-Encoding": "identity"}
LARGE = 300_000


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, module_database_url: str) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("api")
    with Api(folder, module_database_url, f"spool://{folder}/spool") as server:
        yield server


@pytest.fixture(scope="module")
def client(api: Api) -> Iterator[httpx2.Client]:
    with api.client() as client:
        yield client


def running(database: Database) -> int:
    """Return how many exports have a transaction open."""
    with database.transaction() as session:
        return session.scalar(text(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'postroom-export'"
            " AND datname = current_database() AND xact_start IS NOT NULL"
        )) or 0  # fmt: skip


def nothing_runs(database: Database) -> None:
    poll(lambda: running(database), lambda count: count == 0, seconds=10)


def fill(sender: Sender, documents: int = 40, size: int = LARGE) -> set[str]:
    """Store far more than all buffers between the database and a client take."""
    ids = [document_id(number) for number in range(documents)]
    for number, key in enumerate(ids):
        sender.send(put(key, 10, f"alpha {number} ".ljust(size, "x")))
    return set(ids)


# --- Formats -------------------------------------------------------------------------------------

NASTY = 'a,"b";\r\n\tc\n\u2028 ß 😀 \\ '
METADATA = {"a": [1, None, {"b": '"\r\n,'}], "€": 1e29}


def mixed(sender: Sender) -> None:
    sender.send(put(ONE, 10, f"alpha {NASTY}", metadata=METADATA, source="mail", label="=1+1"))
    sender.send(put(TWO, 10, "bad"))
    sender.send(put(THREE, 10, "=cmd|' /C calc'!A0", external_id="-1", source="@x"))


def test_ndjson_has_documents_as_they_are_read(sender: Sender, client: httpx2.Client) -> None:
    mixed(sender)
    response = client.get(EXPORT)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/x-ndjson"
    assert response.headers["Content-Disposition"] == 'attachment; filename="documents.ndjson"'
    assert response.content.endswith(b"}\n")
    found = [orjson.loads(line) for line in response.content.splitlines()]
    assert [each["id"] for each in found] == [THREE, TWO, ONE]
    for each in found:
        assert each == client.get(f"/v1/documents/{each['id']}").json()


def test_csv_says_the_same(sender: Sender, client: httpx2.Client) -> None:
    mixed(sender)
    response = client.get(EXPORT, params={"format": "csv", "sort": "created_at"})
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8; header=present"
    assert response.headers["Content-Disposition"] == 'attachment; filename="documents.csv"'
    head, *rows = csv.reader(io.StringIO(response.text, newline=""))
    assert head == [*DocumentOut.model_fields]
    assert response.content.count(b"\r\n") >= 4
    assert len(rows) == 3
    for row, key in zip(rows, (ONE, TWO, THREE), strict=True):
        cells = dict(zip(head, row, strict=True))
        for name, value in client.get(f"/v1/documents/{key}").json().items():
            shown = json.loads(cells[name]) if isinstance(value, dict) else cells[name]
            assert shown == (value if isinstance(value, dict | str) else str(value or ""))


def test_csv_for_spreadsheets_has_no_formulas(sender: Sender, client: httpx2.Client) -> None:
    mixed(sender)
    response = client.get(EXPORT, params={"format": "csv", "spreadsheet": "true"})
    assert response.content.startswith("\ufeffid,".encode())
    rows = list(csv.DictReader(io.StringIO(response.text.removeprefix("\ufeff"), newline="")))
    assert rows[0]["content"] == "'=cmd|' /C calc'!A0"
    assert (rows[0]["external_id"], rows[0]["source"]) == ("'-1", "'@x")
    assert (rows[2]["label"], rows[2]["category"]) == ("'=1+1", "'=1+1")
    assert rows[2]["content"] == f"alpha {NASTY}"


@pytest.mark.parametrize("form", ["ndjson", "csv"])
def test_an_empty_export_is_a_whole_one(
    database: Database, client: httpx2.Client, form: str
) -> None:
    response = client.get(EXPORT, params={"format": form, "category": "none"})
    head = "" if form == "ndjson" else ",".join(DocumentOut.model_fields) + "\r\n"
    assert (response.status_code, response.text) == (200, head)


def test_filters_and_sorts_are_those_of_lists(sender: Sender, client: httpx2.Client) -> None:
    sender.send(put(ONE, 10, "alpha", metadata={"a": 1}), put(TWO, 10, "beta longer"))
    sender.send(put(THREE, 10, "alpha", metadata={"a": 2}))

    def ids(**parameters: str) -> list[str]:
        lines = client.get(EXPORT, params=parameters).content.splitlines()
        return [orjson.loads(line)["id"] for line in lines]

    assert ids() == [THREE, TWO, ONE]
    assert ids(category="alpha", sort="created_at") == [ONE, THREE]
    assert ids(**{"metadata.a": "1"}) == [ONE]
    assert ids(sort="-confidence") == [TWO, THREE, ONE]


def test_it_is_packed_for_who_can_unpack(sender: Sender, client: httpx2.Client) -> None:
    fill(sender, 30, 1000)
    plain = client.get(EXPORT, headers=PLAIN)
    assert "Content-Encoding" not in plain.headers
    with client.stream("GET", EXPORT, headers={"Accept-Encoding": "gzip"}) as response:
        raw = b"".join(response.iter_raw())
    assert response.headers["Content-Encoding"] == "gzip"
    assert response.headers["Vary"] == plain.headers["Vary"] == "Accept-Encoding"
    assert len(raw) < len(plain.content) / 5
    assert gzip.decompress(raw) == plain.content


@pytest.mark.parametrize(
    ("header", "takes"),
    [
        ("gzip", True),
        ("br, GZIP;q=0.5, deflate", True),
        ("*", True),
        ("gzip; q=1", True),
        ("gzip;q=0.001", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000, br", False),
        ("identity", False),
        ("xgzip", False),
        ("", False),
    ],
)
def test_who_can_unpack(header: str, takes: bool) -> None:
    assert takes_gzip(header) is takes


def test_head_exports_nothing(api: Api, database: Database, client: httpx2.Client) -> None:
    response = client.head(EXPORT, headers=PLAIN)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["Content-Type"] == "application/x-ndjson"
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(client.stream("GET", EXPORT))
        assert client.head(EXPORT).status_code == 200


# --- While others write --------------------------------------------------------------------------


def test_what_was_there_at_the_start_is_there_once(
    sender: Sender, database: Database, client: httpx2.Client
) -> None:
    """Three threads add, change and delete all the time; slow readers see what was there."""
    ids = sorted(fill(sender, 300, 20_000))
    with writers(database, ids):
        for sort in ("-created_at", "created_at", "-created_at"):
            before = stored(database)
            with client.stream("GET", EXPORT, params={"sort": sort}, headers=PLAIN) as response:
                seen = Counter(orjson.loads(line)["id"] for line in response.iter_lines())
            assert set(seen.values()) == {1}
            # Without a snapshot of our own at the very start, the ones that were kept all along.
            assert before & stored(database) <= seen.keys()
            assert len(seen) >= 200


@contextlib.contextmanager
def writers(database: Database, ids: Sequence[str]) -> Iterator[None]:
    done = Event()
    changed, deleted = ids[::2], ids[1::2]  # what is deleted does not come back

    def write(seed: int) -> int:
        random, own, number = Random(seed), Sender(database), 10_000 * (seed + 1)
        while not done.is_set():
            number += 1
            own.send(
                put(document_id(number), number, "new"), put(random.choice(changed), number, "c")
            )
            own.delete(random.choice(deleted), number + 1)
        return number % 10_000

    with ThreadPoolExecutor(3) as threads:
        written = [threads.submit(write, seed) for seed in range(3)]
        try:
            yield
        finally:
            done.set()
        assert all(each.result() > 1 for each in written)


def stored(database: Database) -> set[str]:
    with database.transaction() as session:
        rows = session.scalars(text("SELECT id::text FROM documents WHERE content IS NOT NULL"))
        return set(rows)


def test_an_export_is_of_the_moment_it_was_begun(
    sender: Sender, database: Database, client: httpx2.Client
) -> None:
    """Everything is deleted, changed or added once the first bytes are here."""
    ids = fill(sender)
    with client.stream("GET", EXPORT, headers=PLAIN) as response:
        lines = response.iter_lines()
        first = orjson.loads(next(lines))
        for number, key in enumerate(sorted(ids)):
            if number % 2:
                sender.delete(key, 20)
            else:
                sender.send(put(key, 20, "changed"))
            sender.send(put(document_id(1000 + number), 10, "new"))
        found = [first, *(orjson.loads(line) for line in lines)]
    assert len(found) == len(ids)
    assert {each["id"] for each in found} == ids
    assert {len(each["content"]) for each in found} == {LARGE}


# --- Limits --------------------------------------------------------------------------------------


def test_so_many_at_once_and_those_that_leave_make_room(
    sender: Sender, database: Database, client: httpx2.Client
) -> None:
    fill(sender)
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            response = stack.enter_context(client.stream("GET", EXPORT, headers=PLAIN))
            assert response.status_code == 200
        refused = client.get(EXPORT)
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "10"
        assert "exports" in refused.json()["detail"]
        assert running(database) == 4
        # Lists have connections of their own.
        assert client.get("/v1/documents", params={"limit": 1}).status_code == 200
    nothing_runs(database)
    ready = poll(lambda: client.get(EXPORT), lambda each: each.status_code == 200, seconds=10)
    assert len(ready.content.splitlines()) == 40


def test_a_client_that_leaves_ends_the_statement_it_waits_for(
    sender: Sender, database: Database, api: Api
) -> None:
    """Another's lock stands in for a search through millions of rows."""
    sender.send(put(ONE, 10, "alpha"))
    with database.transaction() as session:
        session.execute(text("LOCK TABLE documents IN ACCESS EXCLUSIVE MODE"))
        with socket.create_connection((LOOPBACK, api.port)) as connection:
            connection.sendall(f"GET {EXPORT} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert connection.recv(12) == b"HTTP/1.1 200"
            poll(lambda: running(database), lambda count: count == 1, seconds=10)
        nothing_runs(database)


def test_an_export_may_take_so_long(
    sender: Sender,
    database: Database,
    module_database_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    fill(sender)
    folder = tmp_path_factory.mktemp("hasty")
    hasty = Api(folder, module_database_url, f"spool://{folder}/s", EXPORT_MAX_SECONDS="1")
    with hasty as api, api.client() as client:
        with client.stream("GET", EXPORT, headers=PLAIN) as response:
            assert response.status_code == 200
            nothing_runs(database)
            with pytest.raises(httpx2.RemoteProtocolError):
                response.read()
        assert "export cut off" in api.logged()
        assert "Traceback" not in api.logged()


def test_a_client_that_reads_nothing_is_left(
    sender: Sender, database: Database, module_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(sender)
    monkeypatch.setattr(exports, "IDLE_SECONDS", 0.2)
    url = module_database_url.replace("postgresql://", "postgresql+psycopg2://")
    service = Exports(url, Clock(), at_once=1, seconds=60)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)
        if len(sent) > 3:
            await asyncio.Event().wait()

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def export() -> None:
        opened = await service.open(Listing(), Ndjson(), gzip=False)
        scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
        await ExportResponse(opened, {})(scope, receive, send)

    asyncio.run(export())
    assert len(sent) == 4
    assert all(each.get("more_body", True) for each in sent)  # never the end
    nothing_runs(database)
    service.close()


# --- The database fails --------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_a_database_that_fails_midway_breaks_the_stream(
    sender: Sender, database: Database, client: httpx2.Client, encoding: str
) -> None:
    ids = fill(sender, 60)
    sender.send(
        *(put(key, 20, f"alpha {Random(key).randbytes(LARGE // 2).hex()}") for key in sorted(ids))
    )
    with client.stream("GET", EXPORT, headers={"Accept-Encoding": encoding}) as response:
        assert response.status_code == 200
        with database.transaction() as session:
            killed = session.scalar(text(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE application_name = 'postroom-export' AND datname = current_database()"
            ))  # fmt: skip
        assert killed
        with pytest.raises(httpx2.RemoteProtocolError):
            response.read()
    whole = poll(lambda: client.get(EXPORT), lambda each: each.status_code == 200, seconds=10)
    assert len(whole.content.splitlines()) == 60


def test_a_database_that_is_away_is_said_before_anything_is_sent(
    tmp_path_factory: pytest.TempPathFactory, module_database_url: str
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    port = int(module_database_url.rpartition(":")[2].partition("/")[0])
    with Background() as background:
        proxy = Proxy(background, port)
        url = module_database_url.replace(f":{port}/", f":{proxy.port}/")
        with Api(folder, url, f"spool://{folder}/spool") as api, api.client() as client:
            assert client.get(EXPORT).status_code == 200
            proxy.silence()
            response = client.get(EXPORT)
            assert response.status_code == 503
            assert response.elapsed.total_seconds() < 7
            proxy.speak(forget=True)
            proxy.cut()
            poll(lambda: client.get(EXPORT).status_code, lambda status: status == 200, seconds=20)
        proxy.close()


def test_csv_of_the_smallest() -> None:
    """A header always, so that a reader knows the fields."""
    assert b"".join(Csv(spreadsheet=False).parts([])).startswith(b"id,external_id,source,content,")
    row = dict.fromkeys(DocumentOut.model_fields) | {"id": UUID(ONE), "content": "\r"}
    [_, line] = Csv(spreadsheet=False).parts([[row]])
    assert line.startswith(f'{ONE},,,"\r",'.encode())
