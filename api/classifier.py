"""Asks the workers what texts are, and gives their answers to whoever asked. Nothing is stored.

Questions leave as documents do, see `api.intake`: at once if none is being published, else with
those that come meanwhile. Whoever waits holds a future, no thread and no connection.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from uuid_utils.compat import uuid7

from shared.errors import BrokerUnavailable, PostroomError, WorkersUnavailable
from shared.messages import CLASSIFY, Answer, NoAnswer, Question, Reply
from shared.queue import Asker, celery_app

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from shared.tracing import Tracing

ANSWER_SECONDS: Final = 5.0

_MESSAGE_TEXTS: Final = 100
_MESSAGE_BYTES: Final = 200_000
_WAITING_BYTES: Final = 64 << 20

Answers = list[Answer | NoAnswer]


@dataclass(slots=True, eq=False)
class _Asked:
    """One caller's question; `until` is in the loop's seconds, `alone` for a message of its own.

    `origin` is where the caller's trace was, if there are traces.
    """

    question: Question
    size: int
    until: float
    answered: asyncio.Future[Answers]
    origin: "SpanContext | None"
    alone: bool = False

    def fail(self, error: PostroomError) -> None:
        """Tell the caller, if it still waits."""
        if not self.answered.done():
            # One error, raised by many callers, would collect all their tracebacks.
            self.answered.set_exception(copy(error))


class Classifier:
    """Asks the workers; to be made and used on one event loop."""

    def __init__(self, broker_url: str, tracing: "Tracing | None" = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._tracing = tracing
        # Connections of its own: whoever asks shall not wait for imports to be published.
        heard, deaf = self._on_loop(self._hear), self._on_loop(self._hear_nothing)
        self._asker = Asker(celery_app(broker_url), heard, deaf)
        self._thread = ThreadPoolExecutor(1, "asker")
        self._waiting: deque[_Asked] = deque()
        self._waiting_bytes = 0
        self._asked: dict[str, list[_Asked]] = {}
        self._busy = False

    async def classify(
        self, texts: Sequence[str], size: int, *, top: int, explain: bool
    ) -> Answers:
        """Return what each text is, in order.

        Args:
            texts: one or more.
            size: their size in bytes, roughly.
            top: categories that each answer names.
            explain: whether to say which words made it so.

        Raises:
            WorkersUnavailable: no worker has answered in time, or the one that was asked died.
            BrokerUnavailable: the broker did not take the question, or its reply was lost.
        """
        if self._waiting_bytes + size > _WAITING_BYTES:
            raise BrokerUnavailable("too much waits to be published")
        question: Question = {"texts": list(texts), "top": top, "explain": explain}
        until = self._loop.time() + ANSWER_SECONDS
        origin = self._tracing.here() if self._tracing else None
        asked = _Asked(question, size, until, self._loop.create_future(), origin)
        self._wait(asked)
        try:
            async with asyncio.timeout_at(until):
                return await asked.answered
        except TimeoutError as error:
            raise WorkersUnavailable("no answer in time") from error

    def close(self) -> None:
        """Stop asking and listening."""
        self._thread.shutdown()
        self._asker.close()

    def _on_loop(self, call: Any) -> Any:
        """Return what has `call` called on the event loop, from whatever thread."""
        return partial(self._loop.call_soon_threadsafe, call)

    def _wait(self, asked: _Asked) -> None:
        self._waiting.append(asked)
        self._waiting_bytes += asked.size
        self._ask_waiting()

    def _ask_waiting(self) -> None:
        """Hand the next message to the thread, if that is free."""
        if self._busy or not (group := self._take()):
            return
        self._busy = True
        task_id = str(uuid7())
        self._asked[task_id] = group
        seconds = max(max(each.until for each in group) - self._loop.time(), 0.01)
        self._loop.call_later(seconds, self._asked.pop, task_id, None)
        asking = self._loop.run_in_executor(self._thread, self._ask, task_id, group, seconds)
        asking.add_done_callback(partial(self._sent, task_id))

    def _take(self) -> list[_Asked]:
        """Take the next message's questions, leaving out those whose callers have given up."""
        group: list[_Asked] = []
        size = texts = 0
        while self._waiting:
            first = self._waiting[0]
            if not first.answered.done():
                size += first.size
                texts += len(first.question["texts"])
                full = size > _MESSAGE_BYTES or texts > _MESSAGE_TEXTS
                if group and (full or first.alone or group[0].alone):
                    break
                group.append(first)
            self._waiting.popleft()
            self._waiting_bytes -= first.size
        return group

    def _ask(self, task_id: str, group: list[_Asked], seconds: float) -> None:
        questions = [each.question for each in group]
        texts = sum(len(each["texts"]) for each in questions)
        ask = partial(
            self._asker.ask,
            CLASSIFY,
            {"questions": questions},
            summary="1 text" if texts == 1 else f"{texts} texts",
            task_id=task_id,
            seconds=seconds,
        )
        if self._tracing is None:
            ask()
            return
        with self._tracing.publishing(CLASSIFY, [each.origin for each in group]) as headers:
            self._tracing.name_message(task_id)
            ask(headers=headers)

    def _sent(self, task_id: str, done: asyncio.Future[None]) -> None:
        """See to what has collected meanwhile; tell the callers if their question did not leave."""
        self._busy = False
        if (error := done.exception()) is not None:
            failure = error if isinstance(error, PostroomError) else BrokerUnavailable(str(error))
            for each in self._asked.pop(task_id, []):
                each.fail(failure)
        self._ask_waiting()

    def _hear(self, task_id: str, reply: Reply) -> None:
        """Tell the callers. Nothing is known of a reply that comes late: they have given up."""
        group = self._asked.pop(task_id, [])
        if "answers" in reply:
            for each, answers in zip(group, reply["answers"], strict=bool(group)):
                if not each.answered.done():
                    each.answered.set_result(answers)
        elif len(group) == 1:
            group[0].fail(WorkersUnavailable("the worker that was asked died"))
        else:
            for each in group:  # one text may be the reason, of one caller only
                each.alone = True
                self._wait(each)

    def _hear_nothing(self) -> None:
        """Tell all callers whose replies were on their way to a queue that is gone."""
        lost, self._asked = self._asked, {}
        for group in lost.values():
            for each in group:
                each.fail(BrokerUnavailable("the reply was lost with its queue"))
