"""Structured logs: one JSON object a line, on standard error, from every library alike."""

import logging
import sys
from collections.abc import Callable
from threading import Lock
from time import monotonic
from typing import Any, Final

import orjson
import structlog
from structlog.typing import Processor

_SHARED: Final[tuple[Processor, ...]] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
)


_EPISODE_SECONDS: Final = 60.0


def _json(event: dict[str, Any], **_: Any) -> str:
    return orjson.dumps(event, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()


class Failing:
    """Says once that something fails, and once that it succeeds again, however often it is tried.

    Attributes:
        failing: whether it failed last.
    """

    def __init__(self, logger: Any, fails: str, succeeds: str) -> None:
        """Set the two events to log: a warning with the reason, and an information."""
        self.failing = False
        self._logger = logger
        self._fails = fails
        self._succeeds = succeeds
        self._failures = 0
        self._since = 0.0
        self._lock = Lock()

    def failed(self, reason: object, **fields: object) -> None:
        """Take in a failure."""
        with self._lock:
            self._failures += 1
            if self.failing:
                return
            self.failing, self._failures, self._since = True, 1, monotonic()
        self._logger.warning(self._fails, reason=str(reason), **fields)

    def succeeded(self, **fields: object) -> None:
        """Take in a success."""
        if not self.failing:
            return  # the way of every success, without the lock
        with self._lock:
            ended, self.failing = self.failing, False
        if ended:
            seconds = round(monotonic() - self._since, 1)
            self._logger.info(self._succeeds, failures=self._failures, seconds=seconds, **fields)


class OncePerEpisode(logging.Filter):
    """Lets a library's line pass once, and not again while it keeps being repeated.

    Libraries log each of their attempts to connect. Lines are the same if their template is; after
    a minute without it, it is news again.
    """

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        super().__init__()
        self._now = now
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line shall be written."""
        now = self._now()
        last = self._last.get(str(record.msg), -_EPISODE_SECONDS)
        self._last[str(record.msg)] = now
        return now - last >= _EPISODE_SECONDS


def configure_logs(level: str, program: str, *more: Processor) -> None:
    """Send all logs of this process to standard error as JSON.

    Args:
        level: least severe level that is written, such as "INFO".
        program: what each line says under "program".
        more: what else is done to every line.
    """
    shared = (*_SHARED, *more)

    def add_program(
        _logger: object, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        event["program"] = program
        return event

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            # What others say beside the event may hold a document's text; reasons are ours.
            foreign_pre_chain=(*shared, structlog.stdlib.ExtraAdder(allow=("reason",))),
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                add_program,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(serializer=_json),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
