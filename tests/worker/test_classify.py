"""A real worker that is asked: what it replies, to whom, before what, and what it survives."""

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import count
from time import monotonic
from typing import Any
from uuid import uuid4

import orjson
import psutil
import pytest

from shared.messages import BULK_QUEUE, CLASSIFY, INGEST, Message
from shared.queue import Asker, celery_app
from tests.deadly import HANG, KILL, OOM, POISON
from tests.shared.broker import depth, put_raw, take_all, wait_for_depth
from tests.shared.store.samples import document_id
from tests.stack import poll, running
from tests.worker.bench import Bench, DeadlyWorker, document
from worker.classify.artefact import DEFAULT, read
from worker.questions import Asked, _add

pytestmark = pytest.mark.rabbitmq

SPACE = "The shuttle will launch from the Cape on Monday and reach its orbit at noon."
_documents = count(1)


class Office:
    """A worker, and somebody who asks it."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.replies: dict[str, Any] = {}
        self.asker = Asker(celery_app(bench.broker_url), self._hear, lambda: None)
        poll(lambda: self.reply_to, lambda queue: queue is not None, 10)

    def _hear(self, task_id: str, reply: Any) -> None:
        assert task_id not in self.replies
        self.replies[task_id] = reply

    @property
    def reply_to(self) -> str | None:
        return self.asker._replies.queue

    def ask(self, *texts: str, seconds: float = 20, top: int = 3, explain: bool = False) -> str:
        task_id = str(uuid4())
        self.asker.ask(
            CLASSIFY,
            {"questions": [{"texts": list(texts), "top": top, "explain": explain}]},
            summary="some",
            task_id=task_id,
            seconds=seconds,
        )
        return task_id

    def reply(self, task_id: str) -> Any:
        poll(lambda: task_id in self.replies, bool, 30)
        return self.replies.pop(task_id)

    def categories(self, *texts: str) -> list[str]:
        (answers,) = self.reply(self.ask(*texts))["answers"]
        return [each["category"] for each in answers]

    def put(self, body: bytes, **changes: Any) -> str:
        """Put a message that our own sender would not write."""
        task_id = str(uuid4())
        headers = {"lang": "py", "id": task_id, "task": CLASSIFY.task}
        reply_to = changes.pop("reply_to", self.reply_to)
        put_raw(
            self.bench.broker_url,
            "classify",
            body,
            headers=headers | changes,
            reply_to=reply_to,
            correlation_id=task_id,
        )
        return task_id

    def done(self, task_id: str) -> list[dict[str, Any]]:
        """Return the worker's lines about a question."""
        return [each for each in self.lines() if each.get("task_id") == task_id]

    def lines(self) -> list[dict[str, Any]]:
        logged = self.bench.worker.logged().splitlines()
        return [orjson.loads(each) for each in logged if each.startswith("{")]

    def close(self) -> None:
        self.asker.close()
        self.bench.close()


@pytest.fixture(scope="module")
def office(
    tmp_path_factory: pytest.TempPathFactory, module_database_url: str, module_broker_url: str
) -> Iterator[Office]:
    bench = Bench(
        tmp_path_factory.mktemp("asked"), module_database_url, module_broker_url, DeadlyWorker
    )
    with ExitStack() as stack:
        running(stack, bench.worker)
        office = Office(bench)
        stack.callback(office.close)
        yield office


def body(*texts: str) -> bytes:
    return orjson.dumps([[], {"questions": [{"texts": texts, "top": 1, "explain": False}]}, {}])


# --- Answers -------------------------------------------------------------------------------------


def test_the_answers_are_the_models(office: Office) -> None:
    model = read(DEFAULT)
    texts = [SPACE, "the goalie made a save", "", "oven and broth"]
    (answers,) = office.reply(office.ask(*texts))["answers"]
    for each, prediction in zip(answers, model.classify(texts), strict=True):
        assert each["category"] == prediction.category
        assert each["confidence"] == pytest.approx(prediction.confidence)
        assert len(each["scores"]) == 3


def test_nothing_is_stored_or_counted(office: Office) -> None:
    before = office.bench.totals()
    office.categories(SPACE)
    assert office.bench.totals() == before
    assert depth(office.bench.broker_url, "classify") == 0


# --- What is late, and what comes first ----------------------------------------------------------


@pytest.fixture
def busy(office: Office) -> Iterator[list[psutil.Process]]:
    """Both children, stopped with a message each to work on."""
    children = office.bench.children()
    for child in children:
        child.suspend()
    for _ in children:
        feed(office, INGEST, documents=1)
    wait_for_depth(office.bench.broker_url, "ingest", 0)
    yield children
    for child in children:
        child.resume()


def feed(office: Office, message: Message, documents: int) -> None:
    made = [
        document(document_id(next(_documents)), f"a text {SPACE * 25}") for _ in range(documents)
    ]
    office.bench.publisher.publish(
        message, {"documents": made}, documents=documents, summary="some"
    )


def test_a_question_that_waited_too_long_for_a_child_is_not_worked_on(
    office: Office, busy: list[psutil.Process]
) -> None:
    late = office.ask(SPACE, seconds=3)
    asked_at = monotonic()
    wait_for_depth(office.bench.broker_url, "classify", 0)  # the worker has fetched it
    assert monotonic() - asked_at < 3
    poll(monotonic, lambda now: now > asked_at + 3.2, 5)
    for child in busy:
        child.resume()
    assert office.categories(SPACE) == ["sci.space"]
    assert late not in office.replies
    assert office.done(late) == []


def test_a_question_that_nobody_fetches_goes(office: Office) -> None:
    expired = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    late = office.put(body(SPACE), expires=expired)
    wait_for_depth(office.bench.broker_url, "classify", 0)
    assert office.categories(SPACE) == ["sci.space"]
    assert office.done(late) == []


def test_a_question_overtakes_documents_that_the_worker_has_fetched(
    office: Office, busy: list[psutil.Process]
) -> None:
    bulk = Message(INGEST.task, BULK_QUEUE)
    for message in (INGEST, bulk) * 4:
        feed(office, message, documents=100)
    # As many as it fetches ahead of each queue: all of `bulk`, and of `ingest` but for the two
    # that the children have.
    wait_for_depth(office.bench.broker_url, "bulk", 0)
    before = len(office.lines())
    task_id = office.ask(SPACE)
    wait_for_depth(office.bench.broker_url, "classify", 0)
    for child in busy:
        child.resume()
    office.reply(task_id)
    poll(lambda: office.done(task_id), lambda found: len(found) == 1, 10)
    events = [each["event"] for each in office.lines()[before:]]
    # Two were with the children, and while one child answers the other may go on.
    assert events[: events.index("texts classified")].count("message ingested") <= 4
    poll(lambda: office.bench.totals().in_flight, lambda found: found == 0, 40)


def test_questions_wait_in_their_order_before_all_else() -> None:
    waiting: deque[Any] = deque()
    first, second = (object.__new__(Asked) for _ in range(2))
    for request in ("a", first, "b", second, "c"):
        _add(waiting, (None, (request,), None))
    assert [request for _, (request,), _ in waiting] == [first, second, "a", "b", "c"]


# --- What cannot be answered ---------------------------------------------------------------------


def test_a_text_that_the_model_cannot_bear_spoils_no_other(office: Office) -> None:
    (answers,) = office.reply(office.ask(SPACE, POISON, SPACE))["answers"]
    assert [each.get("category") for each in answers] == ["sci.space", None, "sci.space"]
    assert answers[1] == {"error": "ValueError"}
    assert POISON not in office.bench.worker.logged()


@pytest.mark.parametrize("word", [KILL, OOM])
def test_a_deadly_text_is_told_at_once_and_tried_once(office: Office, word: str) -> None:
    start = monotonic()
    task_id = office.ask(f"a {word} text")
    assert office.reply(task_id) == {}
    assert monotonic() - start < 10
    assert office.categories(SPACE) == ["sci.space"]
    assert depth(office.bench.broker_url, "classify") == 0
    assert len([each for each in office.done(task_id) if each["level"] == "error"]) == 1
    office.bench.still_works(document_id(next(_documents)))


def test_a_text_that_takes_for_ever_ends_its_child_and_is_told(office: Office) -> None:
    task_id = office.put(body(HANG), timelimit=[1, None])
    assert office.reply(task_id) == {}
    assert office.categories(SPACE) == ["sci.space"]


def test_a_reply_that_nobody_waits_for_is_dropped_quietly(office: Office) -> None:
    task_id = office.put(body(SPACE), reply_to="replies.of-somebody-who-is-gone")
    poll(lambda: office.done(task_id), lambda found: len(found) == 1, 10)
    assert office.done(task_id)[0]["event"] == "texts classified"
    assert office.done(task_id)[0]["level"] == "info"


@pytest.mark.parametrize(
    "payload",
    [
        b'[[], {"questions": [{"texts": "x", "top": 1, "explain": false}]}, {}]',
        b'[[], {"questions": [{"texts": ["x"], "top": 1, "explain": false, "more": 1}]}, {}]',
        b'[[], {"questions": [{"texts": ["x"]}]}, {}]',
        b'[[], {"questions": null}, {}]',
    ],
)
def test_questions_that_cannot_be_read_are_told(office: Office, payload: bytes) -> None:
    assert office.reply(office.put(payload)) == {}


@pytest.mark.parametrize("payload", [b"[[], {", b"\xff", b"{}", b"[[], {}, {}]"])
def test_what_is_no_question_at_all_is_dropped_and_the_worker_goes_on(
    office: Office, payload: bytes
) -> None:
    office.put(payload)
    assert office.categories(SPACE) == ["sci.space"]
    assert depth(office.bench.broker_url, "classify") == 0
    assert list(take_all(office.bench.broker_url, "dead")) == []
