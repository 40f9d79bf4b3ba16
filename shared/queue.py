"""The broker: queues, Celery's settings, and a publisher that knows what became of a message.

Celery's defaults lose messages; each setting here that differs has a reason, and the tests on a
real broker hold it to that.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from threading import BoundedSemaphore, Event, Lock, Thread
from time import monotonic, time
from types import FunctionType
from typing import Any, Final, cast
from uuid import UUID, uuid4

import orjson
import structlog
from amqp.exceptions import AMQPError, PreconditionFailed
from celery import Celery
from celery.app.amqp import AMQP
from kombu import Connection, Exchange, Queue
from kombu.exceptions import ChannelError, OperationalError
from kombu.serialization import register

from shared.account import Account
from shared.errors import BrokerUnavailable
from shared.logs import Failing
from shared.messages import (
    BULK_QUEUE,
    CLASSIFY_QUEUE,
    DEAD_QUEUE,
    DELIVERY_LIMIT,
    INGEST_QUEUE,
    MAINTAIN_QUEUE,
    Envelope,
    Message,
)

PUBLISHER_THREADS: Final = 4
"""Publishes under way at once, each on a connection of its own: more were slower when measured."""

# Arguments of a queue are part of its identity: a broker answers 406 to whoever declares it with
# others. So they are constants; what an operator may tune is checked in the API instead.
_QUORUM: Final = {"x-queue-type": "quorum"}
_DOCUMENTS: Final = _QUORUM | {
    "x-delivery-limit": DELIVERY_LIMIT,
    "x-dead-letter-exchange": "",
    "x-dead-letter-routing-key": DEAD_QUEUE,
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
    "x-max-length-bytes": 8 << 30,
}
# A quorum queue, too: in a cluster a classic one is gone with its node, and the declaration of a
# queue that is gone ends every worker that connects.
_TICKS: Final = _QUORUM | {"x-message-ttl": 60_000}
# Quorum queues for the reason above, though nothing would be lost with a question. Each says itself
# when it expires. Those that nobody takes must not fill the broker, and
# one that ends the workers that take it is dropped soon.
_QUESTIONS: Final = _QUORUM | {
    "x-message-ttl": 60_000,
    "x-delivery-limit": 3,
    "x-overflow": "reject-publish",
    "x-max-length-bytes": 256 << 20,
}


def _queue(name: str, arguments: dict[str, Any]) -> Queue:
    return Queue(name, Exchange(""), routing_key=name, durable=True, queue_arguments=arguments)


QUEUES: Final = {
    queue.name: queue
    for queue in (
        _queue(DEAD_QUEUE, _QUORUM),
        _queue(INGEST_QUEUE, _DOCUMENTS),
        _queue(BULK_QUEUE, _DOCUMENTS),
        _queue(CLASSIFY_QUEUE, _QUESTIONS),
        _queue(MAINTAIN_QUEUE, _TICKS),
    )
}

_SLOW_SECONDS: Final = 0.8
"""A publish that took longer to fail has met a broker that hangs: the next ones are spared it."""

_QUICK_SECONDS: Final = 0.3
"""A publish that failed sooner is tried once more: its connection may just have been a dead one."""

_LISTEN_SECONDS: Final = 0.5
_HEARTBEAT_SECONDS: Final = 10

logger = structlog.get_logger(__name__)


# What kombu and the transports raise; amqp's own errors are kombu's channel errors or `OSError`s
# once Celery has wrapped them, and bare while a connection is made.
_FAULTS: Final[tuple[type[Exception], ...]] = (OperationalError, ChannelError, AMQPError, OSError)


class BrokerBlocked(ConnectionError):
    """The broker takes nothing at the moment: a memory or disk alarm."""


class _EagerConnection(Connection):
    """Tries again every three seconds at most; in kombu the pauses grow to thirty.

    Celery's workers and beat name none: they would be late by that after a long outage.
    """

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Connect, or try again for ever, unless the caller says otherwise."""
        pauses = {"interval_start": 1, "interval_step": 1, "interval_max": 3}
        return super().ensure_connection(*args, **pauses | kwargs)


class _Amqp(AMQP):
    """Leaves queues on the broker's default exchange, to which every queue is always bound.

    Celery would put them on an exchange of its own, with bindings that can be missing.
    """

    default_exchange = Exchange("")
    Connection = _EagerConnection


def celery_app(broker_url: str) -> Celery:
    """Return a Celery app for the broker at `broker_url`; the worker adds its own settings.

    Nothing is opened yet. Messages are JSON both ways, written and read by orjson.
    """
    # A name of its own for the writer: events keep kombu's, which knows more types. Both write
    # application/json, which orjson reads. The stubs know text only; kombu takes bytes as they are.
    encode = cast("Callable[[Any], str]", _encode)
    register("orjson", encode, orjson.loads, "application/json", "utf-8")
    spool = broker_url.startswith("spool://")
    if spool:
        import shared.spool  # noqa: F401, PLC0415  # registers the transport; only who uses it loads it
    app = Celery("postroom", broker=broker_url, amqp=_Amqp, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="orjson",
        task_ignore_result=True,
        task_queues=list(QUEUES.values()),
        task_default_queue=INGEST_QUEUE,
        task_create_missing_queues=False,  # a misspelt name would declare a classic queue
        task_publish_retry=False,  # the default publishes twice and sleeps in between
        broker_connection_timeout=1,
        broker_pool_limit=PUBLISHER_THREADS,
        broker_transport_options={} if spool else _confirmed(broker_url),
    )
    return app


def _encode(payload: Any) -> bytes:
    return orjson.dumps(payload, default=_name)


def _name(value: object) -> str:
    """Name a function: a worker that is asked for its state tells its connection's options."""
    if isinstance(value, FunctionType):
        return value.__qualname__
    raise TypeError(f"{type(value).__name__} is no JSON")


def _confirmed(broker_url: str) -> dict[str, Any]:
    hosts = broker_url.count(";") + 1
    return {
        "confirm_publish": True,
        "read_timeout": 1,
        "write_timeout": 1,
        # One host: fail at once, the publisher decides. Several: try the next one.
        "max_retries": 0 if hosts == 1 else 1,
        "on_blocked": _on_blocked,
    }


def _on_blocked(reason: str) -> None:
    raise BrokerBlocked(reason)


def declare(connection: Connection) -> None:
    """Declare every queue; harmless where they exist.

    Raises:
        kombu.exceptions.OperationalError, ChannelError, OSError: the broker cannot be reached,
            or has a queue of that name with other arguments.
    """
    for queue in QUEUES.values():
        try:
            _declare(connection, queue)
        except PreconditionFailed:
            if queue.name != MAINTAIN_QUEUE:
                raise
            # From a version that had it as a classic queue. Ticks are worth nothing a minute later.
            with connection.channel() as channel:
                queue(channel).delete()
            _declare(connection, queue)


def _declare(connection: Connection, queue: Queue) -> None:
    with connection.channel() as channel:
        queue(channel).declare()


class Publisher:
    """Publishes messages and returns only when the broker has each one safe.

    Blocking: use it from threads, at most `PUBLISHER_THREADS` at a time. A call takes at most
    about two seconds, whatever the broker does.

    Attributes:
        account: numbers the messages.
        declared: whether the queues are there, as far as is known; see `declare`.
    """

    def __init__(self, app: Celery, account: Account) -> None:
        self.account = account
        self.declared = False
        self._line = _Line(app)

    def publish(
        self,
        message: Message,
        payload: dict[str, Any],
        *,
        documents: int,
        summary: str,
        replays: UUID | None = None,
        account: Account | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Envelope:
        """Publish `message` and return its envelope once the broker has confirmed it.

        Args:
            message: which task, on which queue.
            payload: the task's keyword arguments.
            documents: how many documents the payload carries that are not in the account yet.
            summary: what dashboards show in place of the payload.
            replays: the dead letter whose documents the payload carries.
            account: numbers the message in place of the publisher's own.
            headers: what the message says besides its envelope, such as its trace.

        Raises:
            BrokerUnavailable: the broker did not confirm. The message's number is void; the
                message may have arrived all the same.
        """
        account = account or self.account
        with self._line.attempt() as attempt:
            envelope = replace(account.number(documents), replays=replays)
            options = {
                "task_id": envelope.task_id,
                "headers": {**(headers or {}), **envelope.headers()},
                "delivery_mode": 2,
            }
            try:
                self._line.send(message, payload, summary, options, attempt)
            except BaseException:
                account.void(envelope)
                self.declared = False  # a broker that was made anew has no queues
                raise
            account.confirm(envelope)
        return envelope

    @property
    def confirms(self) -> bool:
        """Whether the broker confirmed the last message, or there was none yet."""
        return self._line.confirms

    def declare(self) -> None:
        """Declare every queue.

        Raises:
            BrokerUnavailable: the broker cannot be reached or refuses.
        """
        with self._line.connection() as connection:
            declare(connection)
        self.declared = True

    def check(self) -> None:
        """See whether the broker is there and has the queue for documents.

        Raises:
            BrokerUnavailable: it cannot be reached, or the queue is missing.
        """
        with self._line.connection() as connection, connection.channel() as channel:
            QUEUES[INGEST_QUEUE](channel).queue_declare(passive=True)

    def close(self) -> None:
        """Close all connections."""
        self._line.close()


class Asker:
    """Publishes messages that are replied to, outside the account, and hears the replies.

    Blocking: use it from one thread. A call takes at most about two seconds.
    """

    def __init__(
        self, app: Celery, heard: Callable[[str, Any], None], deaf: Callable[[], None]
    ) -> None:
        """Start listening, see `Replies`.

        Args:
            app: says where the broker is; of this object's own, which closes it.
            heard: called with a reply's task id and its value, from another thread.
            deaf: called when the replies to all that was asked are lost, from another thread.
        """
        self._line = _Line(app)
        self._replies = Replies(app, heard, deaf)

    def ask(
        self,
        message: Message,
        payload: dict[str, Any],
        *,
        summary: str,
        task_id: str,
        seconds: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Publish `message`; return once the broker has confirmed it.

        Args:
            message: which task, on which queue.
            payload: the task's keyword arguments.
            summary: what dashboards show in place of the payload.
            task_id: its identity, and that of the reply.
            seconds: after that time nobody works on it any more.
            headers: what the message says besides, such as its trace.

        Raises:
            BrokerUnavailable: the broker did not confirm, or no reply would be heard.
        """
        reply_to = self._replies.queue
        if reply_to is None:
            raise BrokerUnavailable("replies are not heard")
        options = {
            "task_id": task_id,
            "headers": dict(headers or {}),
            "reply_to": reply_to,
            "delivery_mode": 1,
            # Twice: the broker drops what waits, the worker what it has fetched already.
            "expiration": seconds,
            "expires": seconds,
        }
        with self._line.attempt() as attempt:
            self._line.send(message, payload, summary, options, attempt)

    def close(self) -> None:
        """Stop listening, and close all connections."""
        self._replies.close()
        self._line.close()


class _Line:
    """Sends messages and returns only when the broker has each one safe."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        # The pool's own limit does not bound the wait for a connection.
        self._free = BoundedSemaphore(PUBLISHER_THREADS)
        self._breaker = _Breaker()
        self._said = Failing(logger, "the broker does not confirm", "the broker confirms again")

    @property
    def confirms(self) -> bool:
        """Whether the broker confirmed the last message, or there was none yet."""
        return not self._said.failing

    @contextlib.contextmanager
    def attempt(self) -> Iterator["_Attempt"]:
        """Yield an attempt to send, when it is one's turn.

        Raises:
            BrokerUnavailable: not now, or what is sent meanwhile raises it.
        """
        try:
            with self._slot(), self._breaker.attempt() as attempt:
                yield attempt
        except BrokerUnavailable as error:
            self._said.failed(error)
            raise
        self._said.succeeded()

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """Yield a connection outside the pool, dropped without a handshake afterwards."""
        connection = self._app.connection_for_write()
        try:
            _connect(connection)
            yield connection
        except _FAULTS as error:
            raise BrokerUnavailable(_reason(error)) from error
        finally:
            connection.collect()

    def send(
        self,
        message: Message,
        payload: dict[str, Any],
        summary: str,
        options: dict[str, Any],
        attempt: "_Attempt",
    ) -> None:
        """Send, and once more if the first try failed at once, as after a broker's restart.

        Raises:
            BrokerUnavailable: the broker did not confirm.
        """
        for last in (False, True):
            start = monotonic()
            try:
                self._send_once(message, payload, summary, options)
            except _FAULTS as error:
                seconds = monotonic() - start
                blocked = isinstance(error.__cause__, BrokerBlocked)
                if blocked or seconds > _SLOW_SECONDS:
                    attempt.failed = True
                if last or blocked or seconds > _QUICK_SECONDS or isinstance(error, ChannelError):
                    raise BrokerUnavailable(_reason(error)) from error
            else:
                return

    def close(self) -> None:
        """Close all connections."""
        self._app.close()

    @contextlib.contextmanager
    def _slot(self) -> Iterator[None]:
        if not self._free.acquire(timeout=0.5):
            raise BrokerUnavailable("all connections to the broker are busy")
        try:
            yield
        finally:
            self._free.release()

    def _send_once(
        self, message: Message, payload: dict[str, Any], summary: str, options: dict[str, Any]
    ) -> None:
        producer = self._app.amqp.producer_pool.acquire(block=True, timeout=0.5)
        try:
            self._app.send_task(
                message.task,
                kwargs=payload,
                producer=producer,
                # A Queue object: given a name, Celery would fall back to its default queue.
                queue=QUEUES[message.queue],  # type: ignore[arg-type]  # the stubs know names only
                declare=[],  # nothing is made on the way; the queues are declared at start
                mandatory=True,
                retry=False,
                timeout=1,
                confirm_timeout=1,
                argsrepr=summary,
                kwargsrepr="",
                ignore_result=True,
                add_to_parent=False,
                timestamp=int(time()),  # the broker tells no other age of a message
                **options,
            )
        except BaseException:
            # Drop the socket without a handshake, which has no time limit. Late confirms, which
            # would be taken for those of the next message, die with it.
            if producer.connection is not None:
                producer.connection.collect()
            raise
        finally:
            producer.release()


class Gauge:
    """Asks how many messages wait, again and again, on one connection of its own.

    A connection for each question would fill the broker's log. For one thread at a time.
    """

    def __init__(self, app: Celery) -> None:
        self._connection = app.connection_for_read()

    def waiting(self, queue: str = INGEST_QUEUE) -> int:
        """Return how many messages of a queue no consumer has taken.

        Raises:
            BrokerUnavailable: the broker cannot be reached, or has no such queue.
        """
        try:
            _connect(self._connection)
            with self._connection.channel() as channel:
                declared: Any = QUEUES[queue](channel).queue_declare(passive=True)
                return int(declared.message_count)
        except _FAULTS as error:
            self.close()
            raise BrokerUnavailable(_reason(error)) from error

    def close(self) -> None:
        """Drop the connection without a handshake, which has no time limit."""
        self._connection.collect()


class Replies:
    """Hears replies on a queue of its own, in one thread, which connects again by itself.

    Each connection has a new queue, which nobody else can read and which goes with the connection.
    """

    def __init__(
        self, app: Celery, heard: Callable[[str, Any], None], deaf: Callable[[], None]
    ) -> None:
        """Start listening.

        Args:
            app: says where the broker is.
            heard: called from the thread with a reply's correlation id and its value.
            deaf: called from the thread when `queue` is gone, with all replies on their way to it.
        """
        self.queue: str | None = None
        self._app = app
        self._heard = heard
        self._deaf = deaf
        self._stopping = Event()
        self._said = Failing(logger, "replies are not heard", "replies are heard again")
        self._thread = Thread(target=self._run, name="replies", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; takes as long as one wait for a reply."""
        self._stopping.set()
        self._thread.join(2 * _LISTEN_SECONDS)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except Exception as error:  # noqa: BLE001  # the next connection may be a better one
                self._said.failed(_reason(error))
            finally:
                self.queue = None
                self._deaf()
            self._stopping.wait(_LISTEN_SECONDS)

    def _listen(self) -> None:
        connection = self._app.connection_for_read(heartbeat=_HEARTBEAT_SECONDS)
        try:
            _connect(connection)
            queue = Queue(
                f"replies.{uuid4().hex}",
                Exchange(""),
                durable=False,
                exclusive=True,
                auto_delete=True,
            )
            connection.Consumer(queue, no_ack=True, on_message=self._hear).consume()
            self.queue = queue.name
            self._said.succeeded()
            while not self._stopping.is_set():
                with contextlib.suppress(TimeoutError):
                    connection.drain_events(timeout=_LISTEN_SECONDS)
                connection.heartbeat_check()  # else nothing tells of a broker that fell silent
        finally:
            connection.collect()

    def _hear(self, message: Any) -> None:
        try:
            reply = orjson.loads(message.body)
        except orjson.JSONDecodeError as error:
            logger.warning("reply cannot be read", reason=str(error))
        else:
            self._heard(message.properties.get("correlation_id", ""), reply)


class Replier:
    """Sends replies, on a connection of its own that it keeps; for one thread."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._connection: Connection | None = None

    def send(self, reply_to: str, task_id: str, reply: object) -> None:
        """Reply; if nobody listens any more, that is the end of it.

        Raises:
            BrokerUnavailable: the broker did not confirm.
        """
        body = orjson.dumps(reply)
        for last in (False, True):
            try:
                self._send_once(reply_to, task_id, body)
            except ChannelError:
                self.close()
                return  # the spool says so where RabbitMQ does not
            except _FAULTS as error:
                self.close()
                if last:
                    raise BrokerUnavailable(_reason(error)) from error
            else:
                return

    def close(self) -> None:
        """Drop the connection without a handshake, which has no time limit."""
        if self._connection is not None:
            self._connection.collect()
            self._connection = None

    def _send_once(self, reply_to: str, task_id: str, body: bytes) -> None:
        if self._connection is None:
            # Confirmed, though a reply may be lost: after a restart of the broker the first one
            # would vanish in a socket that only seems to be open.
            options = {"confirm_publish": True}
            self._connection = self._app.connection_for_write(transport_options=options)
            _connect(self._connection)
        self._connection.Producer(auto_declare=False).publish(
            body,
            exchange="",
            routing_key=reply_to,
            correlation_id=task_id,
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=1,
            retry=False,
            timeout=1,
            confirm_timeout=1,
        )


def _connect(connection: Connection) -> None:
    """Connect as the transport's options say.

    Any other way waits two seconds after a failure and tries again.
    """
    connection.default_channel  # noqa: B018  # the property connects


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}"


class _Attempt:
    """One pass through the breaker; `failed` is set when the broker was slow or blocked."""

    failed = False


class _Breaker:
    """After a slow or blocked publish, refuses at once for a second; then lets one probe through.

    Without it every caller would wait for the timeout in turn, and under a memory alarm each
    refused message would still be taken by the broker.
    """

    _SECONDS: Final = 1.0

    def __init__(self) -> None:
        self._lock = Lock()
        self._open_until = 0.0

    @contextlib.contextmanager
    def attempt(self) -> Iterator[_Attempt]:
        self._enter()
        attempt = _Attempt()
        try:
            yield attempt
        except BaseException:
            if attempt.failed or self._open_until:
                self._set(monotonic() + self._SECONDS)
            raise
        self._set(0.0)

    def _enter(self) -> None:
        with self._lock:
            now = monotonic()
            if now < self._open_until:
                raise BrokerUnavailable("the broker did not answer a moment ago")
            if self._open_until:  # a probe: the others go on being refused until it is back
                self._open_until = now + 2 * self._SECONDS

    def _set(self, open_until: float) -> None:
        with self._lock:
            self._open_until = open_until
