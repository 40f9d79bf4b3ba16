"""Answer questions about texts: what they are, nothing is stored."""

from time import perf_counter
from typing import Any, Final

import structlog
from celery import Task

from shared.errors import BrokerUnavailable
from shared.messages import CLASSIFY, Reply, Unreadable, read_questions
from shared.queue import Replier
from worker.app import app, runtime
from worker.classify.explain import answer

_SECONDS: Final = 20
"""A text that takes longer ends its child: far more than the largest body takes."""

_replier = Replier(app)  # opens nothing yet: each child makes its own connection after the fork

logger = structlog.get_logger(__name__)


# Acknowledged as soon as a child has it: whoever asked will ask again, and a text that kills its
# child kills no second one.
@app.task(
    name=CLASSIFY.task,
    bind=True,
    acks_late=False,
    time_limit=_SECONDS,
    Request="worker.questions:Asked",
)
def classify(task: Task[Any, None], *, questions: Any) -> None:
    """Answer the questions of one message.

    One that has expired does not come here: Celery looks when it comes, and again when a child is
    free.
    """
    start = perf_counter()
    request = task.request
    reply: Reply = {}
    texts = 0
    try:
        found = read_questions(questions)
        texts = sum(len(each["texts"]) for each in found)
        with runtime.step("answer"):
            reply["answers"] = answer(runtime.model, found)
    except Unreadable as error:
        logger.error("question cannot be read", task_id=request.id, reason=str(error))
    except Exception as error:  # noqa: BLE001  # even if there is no memory, somebody waits
        # What an error says may be the text's.
        logger.error("texts cannot be classified", task_id=request.id, reason=type(error).__name__)
    try:
        _replier.send(str(request.reply_to), str(request.id), reply)
    except BrokerUnavailable as error:
        logger.warning("reply cannot be sent", task_id=request.id, reason=str(error))
        return
    logger.info(
        "texts classified",
        task_id=request.id,
        texts=texts,
        milliseconds=round((perf_counter() - start) * 1000, 1),
    )
