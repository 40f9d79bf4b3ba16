"""How waiting documents become messages, seen with a publisher that records them."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from api.backlog import Backlog
from api.intake import Intake, Receipt, stamped
from api.schemas.document import DocumentIn
from shared.account import Account
from shared.errors import BacklogFull, BrokerUnavailable
from shared.messages import INGEST, Document, Envelope, Message, read_documents
from shared.queue import PUBLISHER_THREADS
from shared.revision import Clock

LIMIT = 10


class RecordingPublisher:
    """Keeps messages in place of publishing them; holds them back while `gate` is closed."""

    def __init__(self) -> None:
        self.account = Account(uuid7())
        self.messages: list[list[Document]] = []
        self.summaries: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.error: Exception | None = None
        self.lock = threading.Lock()
        self.started = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()

    def publish(
        self,
        message: Message,
        payload: dict[str, Any],
        *,
        documents: int,
        summary: str,
        headers: Mapping[str, str] | None = None,
    ) -> Envelope:
        assert message is INGEST
        assert documents == len(payload["documents"])
        with self.lock:  # in the order of their numbers: the threads end in any
            envelope = self.account.number(documents)
            self.messages.append(payload["documents"])
            self.summaries.append(summary)
            self.headers.append(headers or {})
        self.started.release()
        assert self.gate.wait(10)
        if self.error:
            raise self.error
        return envelope

    def hold(self, intake: Intake) -> list[asyncio.Task[Receipt]]:
        """Keep every publisher thread busy, each with a batch of one document."""
        self.gate.clear()
        return [
            asyncio.create_task(intake.accept_batch([made()], 10)) for _ in range(PUBLISHER_THREADS)
        ]

    async def all_held(self) -> None:
        for _ in range(PUBLISHER_THREADS):
            assert await asyncio.to_thread(self.started.acquire, timeout=10)


def document(**fields: object) -> DocumentIn:
    return DocumentIn.model_validate(fields, context={"max_content_bytes": 1 << 20})


def made(content: str = "x") -> Document:
    return stamped(document(content=content), Clock(), "request")


@pytest.fixture
def publisher() -> RecordingPublisher:
    return RecordingPublisher()


@pytest.fixture
def intake(publisher: RecordingPublisher) -> Iterator[Intake]:
    intake = Intake(publisher, Backlog(LIMIT))  # type: ignore[arg-type]  # it has what the intake uses
    yield intake
    publisher.gate.set()
    intake.close()


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


class TestIntake:
    def test_a_lone_document_leaves_at_once(
        self, intake: Intake, publisher: RecordingPublisher
    ) -> None:
        async def test() -> None:
            document = made()
            envelope, place = await intake.accept(document, 10)
            assert publisher.messages == [[document]]
            assert publisher.summaries == [f"1 document {document['id']}"]
            assert (envelope.seq, envelope.documents, place) == (1, 1, 0)

        run(test())

    def test_what_waits_shares_a_message(
        self, intake: Intake, publisher: RecordingPublisher
    ) -> None:
        async def test() -> None:
            held = publisher.hold(intake)
            await publisher.all_held()
            documents = [made() for _ in range(250)]
            waiting = [asyncio.create_task(intake.accept(each, 10)) for each in documents]
            await asyncio.sleep(0)
            publisher.gate.set()
            receipts = await asyncio.gather(*waiting)
            await asyncio.gather(*held)
            shared = sorted(publisher.messages[PUBLISHER_THREADS:], key=len)
            assert list(map(len, shared)) == [50, 100, 100]
            ids = {each["id"] for message in shared for each in message}
            assert ids == {each["id"] for each in documents}
            assert len({each.envelope.task_id for each in receipts}) == 3
            # Each caller is told of the message that carries its document, and of its place.
            for document, (envelope, place) in zip(documents, receipts, strict=True):
                assert publisher.messages[envelope.seq - 1][place] == document

        run(test())

    def test_a_message_stays_below_two_hundred_kilobytes(
        self, intake: Intake, publisher: RecordingPublisher
    ) -> None:
        async def test() -> None:
            held = publisher.hold(intake)
            await publisher.all_held()
            sizes = [90_000, 90_000, 90_000, 500_000, 10]
            waiting = [asyncio.create_task(intake.accept(made(), size)) for size in sizes]
            await asyncio.sleep(0)
            publisher.gate.set()
            await asyncio.gather(*waiting, *held)
            shared = publisher.messages[PUBLISHER_THREADS:]
            assert sorted(map(len, shared)) == [1, 1, 1, 2]

        run(test())

    def test_a_batch_is_a_message_of_its_own(
        self, intake: Intake, publisher: RecordingPublisher
    ) -> None:
        async def test() -> None:
            held = publisher.hold(intake)
            await publisher.all_held()
            batch = [made() for _ in range(300)]
            waiting = [
                asyncio.create_task(intake.accept(made(), 10)),
                asyncio.create_task(intake.accept_batch(batch, 10)),
                asyncio.create_task(intake.accept(made(), 10)),
            ]
            await asyncio.sleep(0)
            publisher.gate.set()
            await asyncio.gather(*waiting, *held)
            assert sorted(map(len, publisher.messages[PUBLISHER_THREADS:])) == [1, 1, 300]
            assert batch in publisher.messages

        run(test())

    def test_everybody_in_a_message_hears_that_it_failed(
        self, intake: Intake, publisher: RecordingPublisher
    ) -> None:
        async def test() -> None:
            held = publisher.hold(intake)
            await publisher.all_held()
            waiting = [asyncio.create_task(intake.accept(made(), 10)) for _ in range(3)]
            await asyncio.sleep(0)
            publisher.error = BrokerUnavailable("away")
            publisher.gate.set()
            for each in await asyncio.gather(*waiting, *held, return_exceptions=True):
                assert isinstance(each, BrokerUnavailable)
            publisher.error = None
            assert (await intake.accept(made(), 10)).envelope.documents == 1

        run(test())

    def test_a_document_waits_for_the_message_on_its_way(
        self, intake: Intake, publisher: RecordingPublisher
    ) -> None:
        """A second message for so few would cost more than it gains; for many it does not."""

        async def test() -> None:
            publisher.gate.clear()
            waiting = [asyncio.create_task(intake.accept(made(), 10)) for _ in range(100)]
            assert await asyncio.to_thread(publisher.started.acquire, timeout=10)
            assert not publisher.started.acquire(blocking=False)
            waiting.append(asyncio.create_task(intake.accept(made(), 10)))
            assert await asyncio.to_thread(publisher.started.acquire, timeout=10)
            publisher.gate.set()
            await asyncio.gather(*waiting)
            assert sorted(map(len, publisher.messages)) == [1, 100]

        run(test())

    def test_after_a_message_of_several_the_next_one_collects_for_a_moment(
        self, publisher: RecordingPublisher
    ) -> None:
        async def test() -> None:
            intake = Intake(publisher, Backlog(LIMIT), gap_seconds=1)  # type: ignore[arg-type]
            for _ in range(3):  # one at a time: nobody gains by waiting
                await intake.accept(made(), 10)
            several = [asyncio.create_task(intake.accept(made(), 10)) for _ in range(3)]
            await asyncio.gather(*several)
            assert list(map(len, publisher.messages)) == [1, 1, 1, 1, 2]
            begin = asyncio.get_running_loop().time()
            late = asyncio.create_task(intake.accept(made(), 10))
            await asyncio.sleep(0)  # it waits by now; without the gap it would be on its way
            later = asyncio.create_task(intake.accept(made(), 10))
            await asyncio.gather(late, later)
            assert asyncio.get_running_loop().time() - begin > 0.5
            assert list(map(len, publisher.messages[5:])) == [2]
            intake.close()

        run(test())

    def test_neither_a_full_message_nor_a_batch_waits_for_that_moment(
        self, publisher: RecordingPublisher
    ) -> None:
        async def test() -> None:
            intake = Intake(publisher, Backlog(LIMIT), gap_seconds=3600)  # type: ignore[arg-type]
            async with asyncio.TaskGroup() as group:
                for _ in range(101):
                    group.create_task(intake.accept(made(), 10))
            await intake.accept_batch([made()], 10)
            async with asyncio.TaskGroup() as group:
                for _ in range(100):
                    group.create_task(intake.accept(made(), 10))
            assert list(map(len, publisher.messages)) == [1, 100, 1, 100]
            alone = asyncio.create_task(intake.accept(made(), 10))
            await asyncio.wait([alone], timeout=0.1)
            assert not alone.done()
            alone.cancel()
            intake.close()

        run(test())

    def test_no_more_is_kept_than_memory_can_bear(
        self, intake: Intake, publisher: RecordingPublisher
    ) -> None:
        async def test() -> None:
            held = publisher.hold(intake)
            await publisher.all_held()
            size = 8 << 20
            waiting = [asyncio.create_task(intake.accept_batch([made()], size)) for _ in range(99)]
            await asyncio.sleep(0)
            refused = [each for each in waiting if each.done()]
            assert 0 < len(refused) < 99
            for each in refused:
                assert isinstance(each.exception(), BrokerUnavailable)
            publisher.gate.set()
            taken = [each for each in waiting if each not in refused]
            await asyncio.gather(*taken, *held)
            # What has left makes room.
            await intake.accept_batch([made()], size)

        run(test())

    def test_nobody_waits_for_ever(self, intake: Intake, publisher: RecordingPublisher) -> None:
        """Who has given up is not published afterwards: nobody was promised it."""

        async def test() -> None:
            held = publisher.hold(intake)
            await publisher.all_held()
            late = asyncio.create_task(intake.accept(made("late"), 10))
            with pytest.raises(BrokerUnavailable):
                await late
            await asyncio.gather(*held, return_exceptions=True)
            publisher.gate.set()
            assert (await intake.accept(made("next"), 10)).envelope.documents == 1
            contents = [each["content"] for message in publisher.messages for each in message]
            assert sorted(contents) == ["next", *"x" * PUBLISHER_THREADS]

        run(test())

    def test_a_caller_that_leaves_takes_nobody_along(
        self, intake: Intake, publisher: RecordingPublisher
    ) -> None:
        async def test() -> None:
            held = publisher.hold(intake)
            await publisher.all_held()
            leaves = asyncio.create_task(intake.accept(made("leaves"), 10))
            stays = asyncio.create_task(intake.accept(made("stays"), 10))
            await asyncio.sleep(0)
            leaves.cancel()
            await asyncio.sleep(0)
            publisher.gate.set()
            await asyncio.gather(stays, *held)
            contents = [each["content"] for message in publisher.messages for each in message]
            assert sorted(contents) == ["stays", *"x" * PUBLISHER_THREADS]

        run(test())

    def test_batches_whose_callers_left_hold_nobody_up(
        self, intake: Intake, publisher: RecordingPublisher
    ) -> None:
        async def test() -> None:
            held = publisher.hold(intake)
            await publisher.all_held()
            # More than there are threads, each of which looks for the next message once.
            leave = [
                asyncio.create_task(intake.accept_batch([made()], 10))
                for _ in range(PUBLISHER_THREADS + 1)
            ]
            stays = asyncio.create_task(intake.accept(made("stays"), 10))
            await asyncio.sleep(0)
            for each in leave:
                each.cancel()
            await asyncio.sleep(0)
            publisher.gate.set()
            await asyncio.gather(stays, *held)
            assert publisher.messages[-1][0]["content"] == "stays"

        run(test())


class TestStamped:
    def test_a_message_says_only_what_the_request_said(self) -> None:
        message = stamped(document(content="a"), Clock(lambda: 7), "request")
        assert message.keys() == {"id", "stamp", "accepted_at", "content", "request_id"}
        assert (message["stamp"], message["request_id"]) == (7, "request")
        assert UUID(message["id"]).version == 7
        assert read_documents([message]) == [message]

    def test_a_message_says_all_that_the_request_said(self) -> None:
        full = document(
            content="a",
            id=UUID(int=1),
            external_id="b",
            source="c",
            metadata={"d": [1]},
            label="e",
        )
        message = stamped(full, Clock(), "request")
        assert message["id"] == str(UUID(int=1))
        assert (message["external_id"], message["source"]) == ("b", "c")
        assert (message["metadata"], message["label"]) == ({"d": [1]}, "e")
        assert message["may_exist"]
        assert read_documents([message]) == [message]

    def test_a_label_of_null_is_not_a_label_left_out(self) -> None:
        cleared = document(content="a", label=None)
        message = stamped(cleared, Clock(), "request")
        assert message["label"] is None

    def test_only_an_id_made_here_cannot_exist(self) -> None:
        own = document(content="a", external_id="b")
        assert stamped(own, Clock(), "request")["may_exist"]
        assert "may_exist" not in stamped(document(content="a"), Clock(), "request")


def test_over_the_backlogs_limit_nothing_is_published(publisher: RecordingPublisher) -> None:
    async def refused() -> None:
        backlog = Backlog(LIMIT)
        backlog.observe(LIMIT + 1)
        intake = Intake(publisher, backlog)  # type: ignore[arg-type]  # it has what is used
        for call in (intake.accept(made(), 10), intake.accept_batch([made()], 10)):
            with pytest.raises(BacklogFull):
                await call
        backlog.observe(LIMIT)
        await intake.accept(made(), 10)
        intake.close()

    asyncio.run(refused())
    assert len(publisher.messages) == 1
    assert publisher.account.mark().seq == 1  # no number was used up, so none is void
