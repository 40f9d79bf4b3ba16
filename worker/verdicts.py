"""What becomes of a message by what its task raised: dead, given back, or done with."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from celery.exceptions import Reject

from shared.dead import Dead
from shared.messages import Unreadable
from shared.store.ledger import AlreadyAccounted
from worker.careful import record_raised
from worker.patience import GiveBack
from worker.runtime import Runtime

logger = structlog.get_logger(__name__)


@contextmanager
def verdict(runtime: Runtime, task_id: str) -> Iterator[None]:
    """Do a message's work inside; a message that was accounted for before is done with.

    Every line that is logged meanwhile says the message.

    Raises:
        Reject: with requeue, if the message shall be delivered again; without, if it is a dead
            letter.
        MemoryError: the guard returns the message.
    """
    structlog.contextvars.bind_contextvars(task_id=task_id)
    try:
        yield
    except (Unreadable, Dead) as error:
        logger.error("message is dead", reason=str(error))
        runtime.metrics.message("dead")
        raise Reject(str(error), requeue=False) from error
    except GiveBack as error:
        logger.warning("message given back", reason=str(error))
        runtime.metrics.message("given_back")
        raise Reject(str(error), requeue=True) from error
    except AlreadyAccounted:
        logger.info("message was accounted for before")
        runtime.metrics.message("repeated")
    except MemoryError:
        runtime.metrics.message("given_back")
        raise
    except Exception as error:  # noqa: BLE001  # whatever it is, the letter says it
        # What an error says may be the document's: it goes with the dead letter only.
        logger.error("message is dead", reason=type(error).__name__)
        runtime.metrics.message("dead")
        record_raised(runtime, task_id, error)
        raise Reject(type(error).__name__, requeue=False) from None
    else:
        runtime.metrics.message("done")
    finally:
        structlog.contextvars.unbind_contextvars("task_id")
