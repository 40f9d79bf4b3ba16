"""The audit log: every operation that changes something leaves an entry, and nothing else does."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID, uuid4

import httpx2
import pytest
import structlog
from uuid_utils.compat import uuid7

from api.app import create_app
from api.audit import Journal
from api.settings import ApiSettings
from local.ports import free_ports
from local.postgres import DATABASE, Postgres
from shared import dead
from shared.access import Caller, Scope
from shared.db import Session
from shared.dead import Fault, FaultKind
from shared.errors import DatabaseUnavailable
from shared.messages import INGEST, Document
from shared.revision import microseconds_now
from shared.store import audit, dead_letters, imports
from shared.store.audit import Entry
from tests.api.test_access import command
from tests.conftest import migrate
from tests.keys import Keys, bearer
from tests.shared.store.samples import ACCEPTED_AT, Sender, put
from tests.stack import Api, poll, running

pytestmark = pytest.mark.rabbitmq

SECRET = "nobody-else-shall-read-this"
"""Is in what is sent, and must not be in the log."""

NO_CHANGE = {"classifyTexts", "createToken"}
"""Operations that change nothing, though they are no GET."""

COUNTED = {"createDocument", "createDocuments", "replaceDocument"}
"""Operations whose requests are counted together."""


class Site:
    """An API that asks for keys, and a database with something in it."""

    def __init__(self, client: httpx2.Client, database_url: str) -> None:
        self.client = client
        self.keys = Keys(database_url)
        self.sender = Sender(self.keys.database)
        self.admin = bearer(self.keys.make(Scope.ADMIN, name="the auditor"))

    def document(self) -> dict[str, str]:
        key = str(uuid7())
        self.sender.send(put(key, microseconds_now(), f"alpha {SECRET}"))
        return {"document_id": key}

    def letter(self) -> dict[str, str]:
        document: Document = {
            "id": str(uuid7()),
            "stamp": microseconds_now(),
            "accepted_at": ACCEPTED_AT,
            "content": SECRET,
        }
        deaths = [Fault(FaultKind.CHILD_LOST, 0, "it died", datetime.now(UTC))]
        letter = dead.single(INGEST, self.sender.account.number(1), document, 0, deaths)
        with self.keys.database.transaction() as session:
            dead_letters.keep(session, [letter])
            (row, *_), _ = dead_letters.page(session, dead_letters.Filter(), None, 1)
        return {"letter_id": str(row["id"])}

    def receiving(self) -> dict[str, str]:
        media_type = {"media_type": "application/x-ndjson"}
        upload = imports.Upload(uuid7(), "somebody", uuid4().hex, media_type, uuid7(), None)
        with self.keys.database.transaction() as session:
            return {"import_id": str(imports.begin(session, upload).id)}

    def key(self) -> dict[str, str]:
        return {"key_id": str(self.keys.make_both(Scope.CLASSIFY)[0])}

    def log(self, **where: Any) -> list[dict[str, Any]]:
        answer = self.client.get("/v1/audit", params={"limit": 250, **where}, headers=self.admin)
        assert answer.status_code == 200, answer.text
        assert SECRET not in answer.text
        data: list[dict[str, Any]] = answer.json()["data"]
        return data


@dataclass(frozen=True)
class Call:
    """How to call an operation so that it changes something."""

    made: Callable[[Site], dict[str, str]] = lambda _: {}  # returns what the path names
    json: Any = None
    content: bytes | None = None
    params: dict[str, str] | None = None


CALLS = {
    "createDocument": Call(json={"content": SECRET}),
    "createDocuments": Call(json=[{"content": SECRET}, {"content": "b"}]),
    "replaceDocument": Call(lambda _: {"document_id": str(uuid7())}, {"content": SECRET}),
    "updateDocument": Call(Site.document, {"metadata": {"author": SECRET}}),
    "deleteDocument": Call(Site.document),
    "reclassifyDocument": Call(Site.document),
    "reclassifyDocuments": Call(Site.document, {"status": "stored"}),
    "createImport": Call(content=b'{"content": "%s"}\n' % SECRET.encode()),
    "cancelImport": Call(Site.receiving),
    "replayDeadLetter": Call(Site.letter),
    "replayDeadLetters": Call(Site.letter, {"reason": "child_killed"}),
    "deleteDeadLetter": Call(Site.letter),
    "deleteDeadLetters": Call(Site.letter, params={"reason": "child_killed"}),
    "createKey": Call(json={"name": "one more", "scopes": ["classify"]}),
    "rotateKey": Call(Site.key, {"overlap_seconds": 10}),
    "revokeKey": Call(Site.key),
}


def operations() -> dict[str, tuple[str, str]]:
    """Return method and path of every operation that is no GET, by its id."""
    settings = ApiSettings(database_url="postgresql://nowhere/", broker_url="amqp://nowhere")
    with patch("api.app.configure_logs"):  # this process has other tests to log for
        schema = create_app(settings).openapi()
    return {
        operation["operationId"]: (method.upper(), path)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
        if method != "get"
    }


OPERATIONS = operations()


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, module_database_url: str, module_broker_url: str
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("audit")
    with (
        Api(folder, module_database_url, module_broker_url, AUTH="on") as api,
        api.client() as client,
    ):
        poll(lambda: client.get("/readyz").status_code, lambda status: status == 200, 15)
        site = Site(client, module_database_url)
        yield site
        site.keys.close()


@pytest.mark.parametrize("operation", sorted(OPERATIONS.keys() - NO_CHANGE))
def test_every_operation_that_changes_something_leaves_an_entry(site: Site, operation: str) -> None:
    assert operation in CALLS, f"say in CALLS how to call {operation}; it must leave an entry"
    call, (method, path) = CALLS[operation], OPERATIONS[operation]
    names = call.made(site)
    name, request_id = f"who calls {operation}", uuid4().hex
    key_id, key = site.keys.make_both(Scope.ADMIN, name=name)
    headers = bearer(key) | {"X-Request-Id": request_id}
    if call.content is not None:
        headers["Content-Type"] = "application/x-ndjson"
    answer = site.client.request(
        method,
        path.format(**names),
        json=call.json,
        content=call.content,
        params=call.params,
        headers=headers,
    )
    assert answer.is_success, answer.text

    if operation in COUNTED:
        poll(lambda: site.log(caller=name), bool, 5)  # it is written in the next second
    (entry,) = site.log(caller=name)
    assert (entry["action"], entry["key_id"]) == (operation, str(key_id))
    if operation in COUNTED:
        documents = len(call.json) if isinstance(call.json, list) else 1
        assert entry["details"].pop("until")
        assert entry["details"] == {"requests": 1, "documents": documents}
        return
    assert (entry["request_id"], entry["address"]) == (request_id, "127.0.0.1")
    assert entry["outcome"] == (None if operation == "createImport" else answer.status_code)
    if operation in {"createImport", "createKey"}:
        assert entry["object_id"] == answer.json()["id"]
    else:
        assert entry["object_id"] == (next(iter(names.values())) if "{" in path else None)


def test_the_list_of_calls_has_no_operation_that_is_gone() -> None:
    assert CALLS.keys() | NO_CHANGE == OPERATIONS.keys()
    assert NO_CHANGE.isdisjoint(CALLS)


def test_nothing_changes_the_log() -> None:
    assert not [path for _, path in OPERATIONS.values() if "audit" in path]


def test_what_is_refused_or_found_nothing_leaves_no_entry(site: Site) -> None:
    headers = bearer(site.keys.make(Scope.ADMIN, name="the unlucky"))
    weak = bearer(site.keys.make(Scope.CLASSIFY, name="the unlucky"))
    document, nothing = site.document()["document_id"], uuid4()
    ask = site.client.request
    refused = [
        ask("POST", "/v1/documents", json={"content": "a"}),
        ask("POST", "/v1/documents", json={"content": "a"}, headers=weak),
        ask("POST", "/v1/documents", json={"content": ""}, headers=headers),
        ask("POST", "/v1/documents/batch", json=[{"content": ""}], headers=headers),
        ask("DELETE", f"/v1/documents/{document}", headers=headers | {"If-Match": '"1"'}),
        ask("PATCH", f"/v1/documents/{nothing}", json={"label": "a"}, headers=headers),
        ask("DELETE", f"/v1/keys/{nothing}", headers=headers),
        ask("POST", f"/v1/keys/{nothing}/rotate", json={}, headers=headers),
        ask("POST", "/v1/keys", json={"name": "a", "scopes": ["b"]}, headers=headers),
        ask("DELETE", f"/v1/imports/{nothing}", headers=headers),
        ask("POST", f"/v1/dead-letters/{nothing}/replay", headers=headers),
    ]
    assert {each.status_code for each in refused} == {401, 403, 404, 412, 422}
    where = {"fingerprint": "none"}
    empty = [
        ask("DELETE", f"/v1/dead-letters/{nothing}", headers=headers),
        ask("DELETE", "/v1/dead-letters", params=where, headers=headers),
        ask("POST", "/v1/dead-letters/replay", json=where, headers=headers),
        ask("POST", "/v1/documents/reclassify", json={"source": "none"}, headers=headers),
        ask("GET", f"/v1/documents/{document}", headers=headers),
    ]
    assert all(each.is_success for each in empty)
    # What comes after it is there: by then all that came before would be, too.
    assert ask("POST", "/v1/documents", json={"content": "a"}, headers=headers).is_success
    (entry,) = poll(lambda: site.log(caller="the unlucky"), bool, 5)
    assert (entry["action"], entry["details"]["requests"]) == ("createDocument", 1)


def test_requests_of_one_caller_are_counted_together(site: Site) -> None:
    headers = bearer(site.keys.make(Scope.DOCUMENTS_WRITE, name="a busy one"))
    usual = headers | {"Content-Type": "application/json; charset=utf-8"}  # not the shortcut's
    for number in range(20):
        answer = (
            site.client.post("/v1/documents", content=b'{"content": "a"}', headers=usual)
            if number % 2
            else site.client.post("/v1/documents", json={"content": "a"}, headers=headers)
        )
        assert answer.status_code == 202
    (entry,) = poll(
        lambda: site.log(caller="a busy one"),
        lambda found: sum(each["details"]["requests"] for each in found) == 20,
        5,
    )
    assert entry["details"]["documents"] == 20
    assert entry["at"] <= entry["details"]["until"]


def test_filters_and_pages(site: Site) -> None:
    headers = bearer(site.keys.make(Scope.ADMIN, name="a pager"))
    start = datetime.now(UTC).isoformat()
    names = [site.key()["key_id"] for _ in range(5)]
    for each in names:
        assert site.client.delete(f"/v1/keys/{each}", headers=headers).status_code == 200
    seen: list[dict[str, Any]] = []
    url = "/v1/audit?caller=a%20pager&limit=2"
    while url:
        page = site.client.get(url, headers=site.admin)
        seen += page.json()["data"]
        url = page.links.get("next", {}).get("url", "")
    assert [each["object_id"] for each in seen] == names[::-1]
    assert seen == site.log(caller="a pager")
    assert site.log(object_id=names[2]) == seen[2:3]
    assert site.log(action="revokeKey", **{"from": start}) == seen
    assert site.log(caller="a pager", to=seen[1]["at"]) == seen[2:]
    assert site.log(caller="a pager", **{"from": seen[1]["at"]}) == seen[:2]
    assert site.log(caller="a pager", action="createKey") == []
    for wrong in ({"more": 1}, {"object_id": "x"}, {"from": "today"}, {"cursor": "x"}):
        assert site.client.get("/v1/audit", params=wrong, headers=site.admin).status_code == 422


def test_commands_on_the_server_leave_entries(site: Site, module_database_url: str) -> None:
    made = command(module_database_url, "create", "by hand", "classify")
    assert made.returncode == 0, made.stderr
    key_id = site.client.get("/v1/keys", headers=site.admin).json()["data"][0]["id"]
    assert command(module_database_url, "revoke", key_id).returncode == 0
    revoked, created = site.log(object_id=key_id)
    assert (created["action"], revoked["action"]) == ("createKey", "revokeKey")
    for each in (created, revoked):
        assert each["details"]["name"] == "by hand"
        assert (each["caller"], each["outcome"], each["address"]) == (None, None, None)


def test_while_the_database_is_away_documents_are_accepted_and_counted(
    broker_url: str, tmp_path: Path, processes: ExitStack
) -> None:
    postgres = Postgres(tmp_path / "postgres", free_ports(1)[0])
    running(processes, postgres)
    migrate(url := postgres.create_database(DATABASE))
    api = Api(tmp_path / "api", url, broker_url)
    running(processes, api)
    client = processes.enter_context(api.client())
    poll(lambda: client.get("/readyz").status_code, lambda status: status == 200, 15)
    postgres.kill()
    for _ in range(7):
        assert client.post("/v1/documents", json={"content": "a text"}).status_code == 202
    assert client.get("/v1/audit").status_code == 503
    running(processes, postgres)
    (entry,) = poll(lambda: client.get("/v1/audit").json().get("data", []), bool, 15)
    assert (entry["action"], entry["caller"]) == ("createDocument", None)
    assert (entry["details"]["requests"], entry["details"]["documents"]) == (7, 7)
    # And what was counted in the last second is written when the process ends.
    assert client.post("/v1/documents/batch", json=[{"content": "a"}]).status_code == 202
    api.stop()
    found = postgres.sql("SELECT action FROM audit ORDER BY at DESC LIMIT 1", DATABASE)
    assert found == "createDocuments"


# --- The journal by itself ------------------------------------------------------------------------


class Table:
    """In place of the database: keeps entries by id, as the store does."""

    def __init__(self) -> None:
        self.rows: dict[UUID, Entry] = {}
        self.away = False
        self.lost = False  # what is written is, but nobody is told

    async def run(self, action: Callable[[Session], None]) -> None:
        if self.away:
            raise DatabaseUnavailable("away")
        with patch("shared.store.audit.record", self._record):
            action(None)  # type: ignore[arg-type]  # none is used
        if self.lost:
            raise DatabaseUnavailable("no answer in time")

    def _record(self, _: Session, *entries: Entry) -> None:
        self.rows.update({each.id: each for each in entries})

    def told(self) -> list[tuple[str, Any]]:
        return [(each.action, each.details.get("documents")) for each in self.rows.values()]


WRITER = Caller("a writer", frozenset({Scope.DOCUMENTS_WRITE}), uuid4())


def test_what_is_late_is_written_later_and_once() -> None:
    async def test() -> None:
        table = Table()
        journal = Journal(table.run)
        table.away = True
        await journal.write(Entry(action="replayDeadLetter"))
        with pytest.raises(DatabaseUnavailable):
            await journal.flush()
        table.away, table.lost = False, True
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable):
                await journal.flush()
        table.lost = False
        await journal.flush()
        assert table.told() == [("replayDeadLetter", None)]
        table.away = True
        await journal.flush()  # nothing is left to be written

    asyncio.run(test())


def test_what_can_never_be_written_is_logged() -> None:
    async def test() -> None:
        table = Table()
        table.away = True
        journal = Journal(table.run)
        await journal.write(Entry(action="revokeKey"))
        journal.count(WRITER, "createDocument", 1)
        with structlog.testing.capture_logs() as logs:
            await journal.close()
        assert [each["action"] for each in logs] == ["revokeKey", "createDocument"]
        assert logs[1]["caller"] == "a writer"

    asyncio.run(test())


def test_counts_grow_for_a_minute_and_are_exact_whatever_the_database_does() -> None:
    async def test() -> None:
        table = Table()
        journal = Journal(table.run)
        journal.count(WRITER, "createDocuments", 10)
        await journal.flush()
        journal.count(WRITER, "createDocuments", 5)
        table.lost = True
        with pytest.raises(DatabaseUnavailable):
            await journal.flush()
        table.lost = False
        await journal.flush()
        assert table.told() == [("createDocuments", 15)]
        later = datetime.now(UTC) + timedelta(minutes=2)
        with patch("api.audit.datetime") as clock:
            clock.now.return_value = later
            await journal.flush()  # the minute is over
            journal.count(WRITER, "createDocuments", 1)
            table.away = True
            clock.now.return_value = later + timedelta(minutes=60)
            with pytest.raises(DatabaseUnavailable):
                await journal.flush()
            journal.count(WRITER, "createDocuments", 1)
            table.away = False
            await journal.flush()
        assert table.told() == [("createDocuments", 15), ("createDocuments", 2)]

    asyncio.run(test())


def test_old_entries_are_purged(site: Site) -> None:
    old = datetime.now(UTC) - timedelta(minutes=60 * 24 * 30 + 1)
    with site.keys.database.transaction() as session:
        audit.record(session, *(Entry(action="old", at=old) for _ in range(3)))
        before = len(audit.page(session, audit.Filter(), None, 10_000)[0])
        assert audit.purge(session, 31, 10) == 0
        assert [audit.purge(session, 30, 2) for _ in range(3)] == [2, 1, 0]
        assert len(audit.page(session, audit.Filter(), None, 10_000)[0]) == before - 3
