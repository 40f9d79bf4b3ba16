"""Every way to die, on a real broker: listed, inspected, replayed, gone."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import orjson
import pytest
from kombu import Connection
from sqlalchemy import text

from local.postgres import Postgres
from local.rabbitmq import RabbitMQ
from shared.dead import Reason
from shared.messages import DELIVERY_LIMIT, INGEST
from tests.conftest import migrate
from tests.deadly import HANG, KILL, OOM
from tests.shared.broker import depth, put_raw, wait_for_depth
from tests.stack import Api, poll, processes, running
from tests.worker.bench import CASES, FINE, Bench, DeadlyWorker, body, document, headers

__all__ = ["processes"]

pytestmark = pytest.mark.rabbitmq

LETTERS = "/v1/dead-letters"


class Office:
    """A bench with the API beside it."""

    def __init__(self, stack: ExitStack, folder: Path, database_url: str, broker_url: str) -> None:
        self.bench = Bench(folder, database_url, broker_url, DeadlyWorker)
        stack.callback(self.bench.close)
        self.api = Api(folder / "api", database_url, broker_url)
        running(stack, self.bench.worker, self.api)
        self.client = stack.enter_context(self.api.client())
        poll(lambda: self.client.get("/readyz").status_code, lambda status: status == 200, 15)

    def put(self, content: bytes, head: dict[str, Any] | None, **properties: Any) -> None:
        put_raw(self.bench.broker_url, "ingest", content, headers=head, **properties)

    def listed(self, **where: Any) -> list[dict[str, Any]]:
        response = self.client.get(LETTERS, params={"limit": 250, **where})
        assert response.status_code == 200, response.text
        letters: list[dict[str, Any]] = response.json()["data"]
        return letters

    def wait_for_letter(self, seconds: float = 60, **where: Any) -> dict[str, Any]:
        """Wait until exactly one letter is listed; return it with its payload."""
        (letter,) = poll(lambda: self.listed(**where), lambda found: len(found) == 1, seconds)
        return self.inspect(letter["id"])

    def inspect(self, letter_id: str) -> dict[str, Any]:
        response = self.client.get(f"{LETTERS}/{letter_id}")
        assert response.status_code == 200, response.text
        letter: dict[str, Any] = response.json()
        return letter

    def replay(self, letter_id: str, **query: Any) -> httpx2.Response:
        return self.client.post(f"{LETTERS}/{letter_id}/replay", params=query)

    def gone(self, letter_id: str) -> None:
        poll(
            lambda: self.client.get(f"{LETTERS}/{letter_id}").status_code,
            lambda status: status == 404,
            30,
        )

    def dead(self) -> int:
        return self.bench.totals().dead

    def rows(self, *keys: str) -> dict[str, tuple[str | None, int]]:
        """Return task id and stamp of the documents that are stored."""
        statement = text(
            "SELECT id::text AS id, task_id, content_revision FROM documents"
            " WHERE id = ANY(CAST(:ids AS uuid[])) AND content IS NOT NULL"
        )
        with self.bench.database.transaction() as session:
            found = session.execute(statement, {"ids": list(keys)})
            return {row.id: (row.task_id, row.content_revision) for row in found}

    def faults(self) -> int:
        with self.bench.database.transaction() as session:
            found: int | None = session.scalar(text("SELECT count(*) FROM message_faults"))
            return found or 0

    def settled(self) -> None:
        """Wait until the account is even, and see that nothing else is left."""
        poll(lambda: self.bench.totals().in_flight, lambda found: found == 0, 30)
        wait_for_depth(self.bench.broker_url, "dead", 0)
        assert self.faults() == 0


@pytest.fixture(scope="module")
def office(
    tmp_path_factory: pytest.TempPathFactory, module_database_url: str, module_broker_url: str
) -> Iterator[Office]:
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("office")
        yield Office(stack, folder, module_database_url, module_broker_url)


@pytest.fixture(autouse=True)
def empty_in_the_end(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "office" in request.fixturenames:
        office: Office = request.getfixturevalue("office")
        office.client.delete(LETTERS, params={"all": "true"})


def fresh(**changes: Any) -> dict[str, Any]:
    """Return headers of a producer of its own."""
    return headers(uuid4().int, **changes)


# --- What a repaired message can be made of ------------------------------------------------------

# Each is broken in its headers only, so its documents can be stored.
MENDABLE: dict[str, tuple[dict[str, Any] | None, Reason]] = {
    "no headers": (None, Reason.MALFORMED_HEADERS),
    "no envelope": ({"id": "x", "task": INGEST.task}, Reason.MALFORMED_HEADERS),
    "malformed headers": ({"timelimit": "abc"}, Reason.MALFORMED_HEADERS),
    "no id": ({"id": ...}, Reason.MALFORMED_HEADERS),
}


@pytest.mark.parametrize("name", MENDABLE)
def test_a_letter_with_broken_headers_is_listed_inspected_replayed_and_gone(
    office: Office, name: str
) -> None:
    changes, reason = MENDABLE[name]
    outside = name in {"no headers", "no envelope"}
    one = document(str(uuid4()))
    head = changes if outside else fresh(**changes or {})
    before = office.bench.totals()
    office.put(body(one), head)
    letter = office.wait_for_letter(reason=reason)
    assert (letter["documents"], letter["attempts"]) == (1, 1)
    assert letter["payload"] == orjson.loads(body(one))
    assert (letter["task_id"] is None) is outside
    assert office.dead() == before.dead + (not outside)

    answer = office.replay(letter["id"])
    assert answer.status_code == 202, answer.text
    office.gone(letter["id"])
    assert office.rows(one["id"]) == {one["id"]: (answer.json()["task_id"], one["stamp"])}
    after = office.bench.totals()
    assert (after.stored, after.dead) == (before.stored + 1, before.dead)
    office.settled()


STILL_DEAD = ("undecodable", "not UTF-8", "unknown task", "version of the day before yesterday",
              "documents are no list", "another number of documents")  # fmt: skip


@pytest.mark.parametrize("name", STILL_DEAD)
def test_a_letter_that_cannot_be_read_is_refused_by_replay_and_can_be_deleted(
    office: Office, name: str
) -> None:
    content, head, properties, reason = CASES[name]
    assert head is not None
    producer = str(uuid4())
    changes = {"producer_id": producer, "id": f"{producer}.1"}
    before = office.dead()
    office.put(content, head | changes, **properties)
    letter = office.wait_for_letter(producer_id=producer)
    assert letter["reason"] == reason
    assert letter["headers"]["producer_id"] == producer
    assert (letter["payload"] is None) is (reason == "undecodable")
    answer = office.replay(letter["id"])
    assert answer.status_code == 409
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert letter["error"] in answer.json()["detail"]
    assert office.client.delete(f"{LETTERS}/{letter['id']}").status_code == 204
    office.gone(letter["id"])
    assert office.dead() == before + letter["documents"]
    office.settled()


def test_a_letter_that_is_too_old_is_replayed_with_a_new_stamp_only(office: Office) -> None:
    one = document(str(uuid4()), stamp=10**15)
    office.put(body(one), fresh())
    letter = office.wait_for_letter(reason="too_old")
    answer = office.replay(letter["id"])
    assert answer.status_code == 409
    assert "restamp=true" in answer.json()["detail"]
    answer = office.replay(letter["id"], restamp=True)
    assert answer.status_code == 202
    office.gone(letter["id"])
    ((_, stamp),) = office.rows(one["id"]).values()
    assert stamp > 10**15
    office.settled()


def test_what_the_task_raised_is_said_and_a_replay_that_fails_again_stays_the_same_letter(
    office: Office,
) -> None:
    head = fresh()
    office.put(body(document("no-uuid")), head)
    letter = office.wait_for_letter(reason="failed")
    assert "invalid input syntax for type uuid" in letter["error"]
    before = office.dead()
    assert office.replay(letter["id"]).status_code == 202
    again = poll(lambda: office.inspect(letter["id"]), lambda found: found["attempts"] == 2, 30)
    assert again["last_at"] > letter["last_at"]
    assert again["first_at"] == letter["first_at"]
    assert office.dead() == before
    office.settled()


def test_a_message_that_came_back_too_often_is_replayed(office: Office) -> None:
    """The broker says so in the headers of what it moves to the dead."""
    one = document(str(uuid4()))
    death = {"reason": "delivery_limit", "queue": "ingest", "count": 1}
    head = fresh(**{"x-death": [death]})
    put_raw(office.bench.broker_url, "dead", body(one), headers=head)
    letter = office.wait_for_letter(reason="delivery_limit")
    assert letter["attempts"] == 21
    assert office.replay(letter["id"]).status_code == 202
    office.gone(letter["id"])
    assert one["id"] in office.rows(one["id"])
    office.settled()


def test_a_message_that_comes_back_too_often_is_dead(
    broker_url: str, database_url: str, tmp_path: Path, processes: ExitStack
) -> None:
    bench = Bench(tmp_path, database_url, broker_url)
    processes.callback(bench.close)
    put_raw(broker_url, "ingest", FINE, headers=fresh())
    returns = 0
    channel: Any
    with Connection(broker_url) as connection, connection.channel() as channel:
        while message := channel.basic_get("ingest"):
            channel.basic_reject(message.delivery_tag, requeue=True)
            returns += 1
    assert returns == DELIVERY_LIMIT + 1
    running(processes, bench.worker)
    (letter,) = poll(bench.letters, lambda found: len(found) == 1, 30)
    assert (letter["reason"], letter["attempts"]) == ("delivery_limit", returns)
    assert bench.totals().dead == 1


def test_a_message_that_was_stored_already_is_no_letter(office: Office) -> None:
    one = document(str(uuid4()))
    head = fresh()
    office.put(body(one), head)
    poll(lambda: office.rows(one["id"]), bool, 20)
    before = office.bench.totals()
    put_raw(office.bench.broker_url, "dead", body(one), headers=head)
    office.settled()
    assert office.bench.totals() == before
    assert office.listed(producer_id=head["producer_id"]) == []


# --- Replaying twice -----------------------------------------------------------------------------


@pytest.mark.parametrize("outside", [False, True])
def test_twenty_replays_at_once_store_once(office: Office, outside: bool) -> None:
    one = document(str(uuid4()))
    head = {"id": "x", "task": INGEST.task} if outside else fresh(timelimit="abc")
    before = office.bench.totals()
    office.put(body(one), head)
    letter = office.wait_for_letter(reason="malformed_headers")
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda _: office.replay(letter["id"]), range(20)))
    queued = [each for each in answers if each.status_code == 202]
    assert queued
    assert {each.status_code for each in answers} <= {202, 404, 503}
    office.gone(letter["id"])
    wait_for_depth(office.bench.broker_url, "bulk", 0)
    office.settled()
    superseded = before.superseded + (len(queued) - 1) * outside
    after = poll(office.bench.totals, lambda found: found.superseded == superseded, 20)
    assert (after.stored, after.dead) == (before.stored + 1, before.dead)
    assert after.in_flight == 0
    assert office.listed() == []


# --- Documents that kill -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "more", "said"),
    [
        (KILL, {}, "signal 9"),
        (OOM, {}, "out of memory"),
        (HANG, {"timelimit": [0.7, None]}, "time limit"),
    ],
)
def test_a_document_that_kills_its_child_is_the_one_dead_letter(
    office: Office, word: str, more: dict[str, Any], said: str
) -> None:
    documents = [document(str(uuid4()), f"a text {number}") for number in range(12)]
    documents[5]["content"] = f"the {word} word"
    head = fresh(documents=12, through=12, **more)
    before = office.bench.totals()
    office.put(body(*documents), head)
    letter = office.wait_for_letter(producer_id=head["producer_id"])
    assert (letter["reason"], letter["position"]) == ("child_killed", 5)
    assert (letter["documents"], letter["attempts"]) == (1, 4)
    assert letter["payload"][1] == {"documents": [documents[5]]}
    assert said in letter["error"]
    neighbours = {
        each["id"]: (head["id"], each["stamp"]) for each in documents if each != documents[5]
    }
    assert office.rows(*(each["id"] for each in documents)) == neighbours
    after = office.bench.totals()
    assert (after.stored, after.dead) == (before.stored + 11, before.dead + 1)
    office.settled()
    office.bench.still_works(str(uuid4()))


def test_all_culprits_of_a_message_are_found(office: Office) -> None:
    documents = [document(str(uuid4()), f"a text {number}") for number in range(20)]
    for position in (0, 7, 8, 19):
        documents[position]["content"] = f"{KILL} {position}"
    head = fresh(documents=20, through=20)
    office.put(body(*documents), head)
    poll(lambda: len(office.rows(*(each["id"] for each in documents))), lambda n: n == 16, 90)
    letters = office.listed(producer_id=head["producer_id"])
    assert sorted(letter["position"] for letter in letters) == [0, 7, 8, 19]
    office.settled()
    answer = office.client.delete(LETTERS, params={"producer_id": head["producer_id"]})
    assert answer.json() == {"deleted": 4, "has_more": False}


def test_a_single_document_that_kills_is_a_letter_also_after_its_replay(office: Office) -> None:
    head = fresh()
    before = office.dead()
    office.put(body(document(str(uuid4()), KILL)), head)
    letter = office.wait_for_letter(producer_id=head["producer_id"])
    assert (letter["reason"], letter["position"]) == ("child_killed", None)
    assert office.replay(letter["id"]).status_code == 202
    again = poll(
        lambda: office.inspect(letter["id"]),
        lambda found: found["attempts"] > letter["attempts"],
        60,
    )
    assert again["reason"] == "child_killed"
    assert office.dead() == before + 1
    office.settled()


def test_of_a_replayed_message_the_culprit_stays_dead_and_the_others_are_stored(
    office: Office,
) -> None:
    documents = [document(str(uuid4()), f"a text {number}") for number in range(6)]
    documents[2]["content"] = KILL
    head = fresh(documents=6, through=6, timelimit="abc")
    before = office.bench.totals()
    office.put(body(*documents), head)
    letter = office.wait_for_letter(producer_id=head["producer_id"])
    assert office.dead() == before.dead + 6
    task_id = office.replay(letter["id"]).json()["task_id"]
    office.gone(letter["id"])
    culprit = office.wait_for_letter(producer_id=task_id.partition(".")[0], reason="child_killed")
    assert culprit["position"] == 2
    after = office.bench.totals()
    assert (after.stored, after.dead) == (before.stored + 5, before.dead + 1)
    office.settled()


# --- Lists, groups, many at once -----------------------------------------------------------------


def test_letters_are_listed_in_pages_grouped_and_replayed_by_filter(office: Office) -> None:
    documents = [document(str(uuid4())) for _ in range(25)]
    for each in documents:
        office.put(body(each), fresh(retries="abc"))
    for number in range(3):
        office.put(f"no JSON {number}".encode(), fresh())
    poll(lambda: len(office.listed()), lambda found: found == 28, 40)

    page = office.client.get(LETTERS, params={"limit": 10, "reason": "malformed_headers"})
    seen = [each["id"] for each in page.json()["data"]]
    while page.json()["has_more"]:
        page = office.client.get(page.links["next"]["url"])
        seen += [each["id"] for each in page.json()["data"]]
    assert len(set(seen)) == len(seen) == 25
    assert seen == sorted(seen, reverse=True)

    groups = office.client.get(f"{LETTERS}/groups").json()["data"]
    assert [(group["reason"], group["letters"]) for group in groups] == [
        ("malformed_headers", 25),
        ("undecodable", 3),
    ]
    assert groups[0]["example"] == seen[0]
    assert groups[0]["error"] == "headers: retries is not a number"
    fingerprint = groups[0]["fingerprint"]
    assert len(office.listed(fingerprint=fingerprint)) == 25
    last = office.inspect(seen[0])["last_at"]
    assert len(office.listed(since=last, fingerprint=fingerprint)) < 25
    assert office.listed(task="documents.eat") == []

    asked: dict[str, Any] = {"rate": 10}
    queued, refused, calls = 0, 0, 0
    while True:
        response = office.client.post(f"{LETTERS}/replay", json=asked)
        assert response.status_code == 202, response.text
        answer = response.json()
        queued += answer["documents"]
        refused += len(answer["refused"])
        calls += 1
        assert answer["documents"] <= 10
        assert ("Retry-After" in response.headers) is answer["has_more"]
        if not answer["has_more"]:
            break
        asked["cursor"] = answer["next_cursor"]
    assert (queued, refused) == (25, 3)
    assert calls == 3
    poll(lambda: len(office.listed()), lambda found: found == 3, 40)
    assert len(office.rows(*(each["id"] for each in documents))) == 25
    answer = office.client.delete(LETTERS, params={"all": "true"})
    assert answer.json()["deleted"] == 3
    office.settled()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", f"{LETTERS}/{UUID(int=1)}", 404),
        ("GET", f"{LETTERS}/x", 422),
        ("GET", f"{LETTERS}?reason=odd", 422),
        ("GET", f"{LETTERS}?nothing=x", 422),
        ("GET", f"{LETTERS}?cursor=x", 422),
        ("GET", f"{LETTERS}?since=2026-11-21T10:00:00", 422),
        ("GET", f"{LETTERS}/groups?limit=0", 422),
        ("POST", f"{LETTERS}/{UUID(int=1)}/replay", 404),
        ("POST", f"{LETTERS}/{UUID(int=1)}/replay?again=1", 422),
        ("POST", f"{LETTERS}/replay", 415),
        ("DELETE", f"{LETTERS}/{UUID(int=1)}", 204),
        ("DELETE", LETTERS, 422),
        ("DELETE", f"{LETTERS}?all=true&reason=failed", 422),
        ("DELETE", f"{LETTERS}?reason=failed&fingerprint=a%00b", 422),
    ],
)
def test_wrong_requests_are_told_so(office: Office, method: str, path: str, status: int) -> None:
    response = office.client.request(method, path)
    assert response.status_code == status, response.text


@pytest.mark.parametrize(
    "wrong", [{"rate": 0}, {"rate": -1}, {"nothing": 1}, {"reason": "odd"}, {"cursor": "x"}, []]
)
def test_a_wrong_replay_queues_nothing(office: Office, wrong: object) -> None:
    response = office.client.post(f"{LETTERS}/replay", json=wrong)
    assert response.status_code == 422, response.text
    assert response.json()["errors"]


def test_a_large_payload_is_shown_in_part(office: Office) -> None:
    head = fresh()
    office.put(b"x" * (3 << 20), head)
    letter = office.wait_for_letter(producer_id=head["producer_id"])
    assert letter["truncated"]
    assert letter["size"] == 3 << 20
    assert len(letter["payload_base64"]) == -(-(1 << 20) // 3) * 4
    office.client.delete(f"{LETTERS}/{letter['id']}")


# --- While servers are away ----------------------------------------------------------------------


def test_letters_outlive_the_database_and_the_broker(
    own_postgres: Postgres,
    own_rabbitmq: RabbitMQ,
    own_broker_url: str,
    tmp_path: Path,
    processes: ExitStack,
) -> None:
    url = own_postgres.create_database("postroom_dead")
    migrate(url)
    office = Office(processes, tmp_path, url, own_broker_url)
    own_postgres.stop()
    one = document(str(uuid4()))
    office.put(b"no JSON", fresh())
    office.put(body(one), fresh(retries="abc"))
    wait_for_depth(office.bench.broker_url, "dead", 2, 30)
    own_rabbitmq.kill()
    own_rabbitmq.start()
    own_rabbitmq.wait_ready()
    own_postgres.start()
    own_postgres.wait_ready()
    poll(lambda: len(office.bench.letters()), lambda found: found == 2, 60)
    poll(lambda: office.client.get(LETTERS).status_code, lambda status: status == 200, 15)
    (mendable,) = office.listed(reason="malformed_headers")
    poll(lambda: office.replay(mendable["id"]).status_code, lambda status: status == 202, 30)
    office.gone(mendable["id"])
    assert one["id"] in office.rows(one["id"])
    office.settled()
    assert depth(office.bench.broker_url, "ingest") == 0
