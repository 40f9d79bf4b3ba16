"""A durable broker in a folder, for a machine without RabbitMQ: `spool:///absolute/folder`.

A message is a file and its life a chain of renames, each of which happens or does not: whoever
is killed in between leaves the message in exactly one place.

    drafts/      being written; moved into its queue once it is on the disk
    queues/      a folder for each queue, where messages wait in the order of their names
    claimed/     a folder for each consumer, locked while it lives, with what it has taken
    bindings/    a folder for each exchange, with an empty file for each binding
    unreadable/  what cannot be decoded or has no queue to go to, for a person to look at

Delivery is at least once: a message comes again when its consumer died before acknowledging it.
One host only: neither locks nor renames can be trusted on a network share. A forked child would
hold its parent's locks, so workers run with `--pool solo`. Importing this registers the URL.
"""

import fcntl
import heapq
import json
import logging
import os
import shutil
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from errno import EEXIST, ENOTEMPTY
from pathlib import Path
from queue import Empty
from typing import Any, Final, NamedTuple, cast
from urllib.parse import quote, unquote, urlsplit
from uuid import uuid4

from amqp.protocol import queue_declare_ok_t
from kombu import Connection
from kombu.exceptions import ChannelError, InconsistencyError, OperationalError
from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.transport.base import (  # type: ignore[attr-defined]  # not in the stubs
    to_rabbitmq_queue_arguments,
)
from kombu.utils.json import dumps, loads
from typing_extensions import override

DELIVERY_LIMIT: Final = 20
DEAD_QUEUE: Final = "dead"
MAX_QUEUE_BYTES: Final = 8 << 30
"""Defaults of x-delivery-limit, x-dead-letter-routing-key and x-max-length-bytes."""

TRANSIENT_SECONDS: Final = 60.0
"""Default of x-message-ttl for queues that go with their listener, who may be stopped."""

_POLL_SECONDS: Final = 0.015
_TIDY_SECONDS: Final = 5.0
_DRAFT_SECONDS: Final = 600.0
_BATCH: Final = 200
_SETTLED_NS: Final = 100_000_000
_DECLARED: Final = ".declared"

RawMessage = dict[str, Any]
logger = logging.getLogger(__name__)


class SpoolFull(OperationalError):
    """The queue holds as many bytes as it may; the message was not taken."""


class Unroutable(ChannelError, InconsistencyError):
    """No queue takes the message. kombu lets the second base pass where a listener has left."""


class Name(NamedTuple):
    """A message's file name: all that is needed to move it without opening it."""

    stamp: str  # time in ns, zero-padded, then a random part: sorts by age
    deliveries: int
    queue: str  # escaped, as are folders
    reason: str = ""  # why it is in the dead-letter queue, and
    origin: str = ""  # where it came from

    @classmethod
    def parse(cls, text: str) -> "Name":
        """Return the parts of a file name; ValueError if it is none of ours."""
        stamp, deliveries, queue, reason, origin = text.split(",")
        int(stamp.partition("-")[0])
        return cls(stamp, int(deliveries), queue, reason, origin)

    def __str__(self) -> str:
        return ",".join(map(str, self))

    @property
    def age(self) -> float:
        """Seconds since it was published."""
        return (time.time_ns() - int(self.stamp.partition("-")[0])) / 1e9


class Policy(NamedTuple):
    """How a queue treats its messages: its declaration, under RabbitMQ's argument names."""

    transient: bool
    arguments: dict[str, Any]

    @property
    def ttl(self) -> float:
        """Seconds after which a waiting message is dropped."""
        default = TRANSIENT_SECONDS if self.transient else float("inf")
        return float(self.arguments.get("x-message-ttl", default * 1000)) / 1000


def escape(name: str) -> str:
    """Return a queue's or exchange's name as a file name without comma, slash or leading dot."""
    text = quote(name, safe="") or "%"  # an empty one becomes a folder that never exists
    return "%2E" + text[1:] if text.startswith(".") else text


def unescape(text: str) -> str:
    """Return the name that `escape` made a file name of."""
    return "" if text == "%" else unquote(text)


def sync(folder: Path) -> None:
    """Bring a folder's entries to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make(folder: Path) -> None:
    """Make a folder for the owner alone, lastingly, unless it exists."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
        sync(folder.parent)


def lock(folder: Path, how: int) -> int | None:
    """Lock a folder and return the descriptor, which unlocks by being closed.

    None if somebody else has locked it or it is gone, perhaps after it was opened here.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), folder.stat()):
            return descriptor
    os.close(descriptor)
    return None


def encode(message: RawMessage) -> bytes:
    """Return a message as one line of JSON and then its body as it is, which base64 would swell."""
    body = message["body"]
    body = body.encode() if isinstance(body, str) else body
    head = {key: value for key, value in message.items() if key != "body"}
    return dumps(head | {"length": len(body)}).encode() + b"\n" + body


def decode(data: bytes, name: Name, tag: str) -> RawMessage:
    """Return the message with what its file name adds; any of several errors if it is damaged."""
    head, _, body = data.partition(b"\n")
    message: RawMessage = loads(head)
    if message.pop("length") != len(body):
        raise ValueError("the body is cut")
    properties, headers = message["properties"], message["headers"]
    properties["delivery_tag"] = tag
    properties["delivery_info"]["redelivered"] = name.deliveries > 1
    if name.deliveries > 1:
        headers["x-delivery-count"] = name.deliveries - 1
    if name.reason:
        origin = unquote(name.origin)
        headers["x-death"] = [{"reason": name.reason, "queue": origin, "count": 1}]
        headers |= {"x-first-death-reason": name.reason, "x-first-death-queue": origin}
    return message | {"body": body}


class Listing:
    """The oldest messages of a queue, so that its folder is not read for each of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._names: deque[str] = deque()
        self._changed = -1
        self._read_at = 0.0

    def pop(self) -> str | None:
        """Return the next file name, which another consumer may have taken; None if none waits."""
        # What has come back in the meantime is older than the rest: look again now and then.
        if not self._names or time.monotonic() - self._read_at > 1:
            with suppress(FileNotFoundError):
                self._refresh()
        return self._names.popleft() if self._names else None

    def _refresh(self) -> None:
        changed = os.stat(self._folder).st_mtime_ns  # noqa: PTH116  # idle consumers live here
        if changed == self._changed:
            return
        # The clock of folders is coarse: a second change in the same tick would not show.
        settled = time.time_ns() - changed > _SETTLED_NS
        waiting = (name for name in os.listdir(self._folder) if name[0] != ".")  # noqa: PTH208  # names
        self._names = deque(heapq.nsmallest(_BATCH, waiting))
        self._changed = changed if settled and len(self._names) < _BATCH else -1
        self._read_at = time.monotonic()


class Spool:
    """The folder itself. Instances share nothing but the disk; each belongs to one thread."""

    def __init__(self, root: Path) -> None:
        names = ("drafts", "queues", "claimed", "bindings", "unreadable")
        folders = [root / name for name in names]
        for folder in (root, *folders):
            make(folder)
        self.drafts, self.queues, self.claimed, self.bindings, self.unreadable = folders
        self._policies: dict[str, Policy] = {}
        self._listings: dict[str, Listing] = {}
        self._used: dict[str, tuple[int, float]] = {}
        self._tidy_at = 0.0

    def folder(self, queue: str) -> Path:
        """Return a queue's folder, which exists once the queue is declared."""
        return self.queues / escape(queue)

    def policy(self, queue: str) -> Policy:
        """Return how a queue was declared; FileNotFoundError if it was not."""
        if queue not in self._policies:
            declared = json.loads((self.folder(queue) / _DECLARED).read_bytes())
            self._policies[queue] = Policy(**declared)
        return self._policies[queue]

    def declare(self, queue: str, policy: Policy) -> int:
        """Make a queue unless it exists, and return a descriptor that keeps it while open."""
        draft = self.drafts / uuid4().hex
        draft.mkdir(mode=0o700)
        with (draft / _DECLARED).open("x") as file:
            json.dump(policy._asdict(), file)
            file.flush()
            os.fsync(file.fileno())
        try:
            return self._settle(draft, self.folder(queue))
        finally:
            self._policies[queue] = policy
            shutil.rmtree(draft, ignore_errors=True)

    def _settle(self, draft: Path, folder: Path) -> int:
        """Move a drafted queue into place, locked before anybody sees it, or join the one there."""
        held = lock(draft, fcntl.LOCK_SH)
        while held is not None:
            try:
                draft.rename(folder)
            except OSError as error:
                if error.errno not in {EEXIST, ENOTEMPTY}:
                    raise
            else:
                sync(folder.parent)
                return held
            joined = lock(folder, fcntl.LOCK_SH)
            if joined is not None:  # else it is just being deleted
                (draft / _DECLARED).replace(folder / _DECLARED)
                os.close(held)
                return joined
        raise OSError("cannot lock a new folder")

    def delete(self, queue: str) -> None:
        """Delete a queue with its messages, bindings first: without them nothing more comes."""
        for binding in self.bindings.glob(f"*/{escape(queue)},*"):
            binding.unlink(missing_ok=True)
        self._policies.pop(queue, None)
        grave = self.drafts / uuid4().hex
        with suppress(FileNotFoundError):
            self.folder(queue).rename(grave)
            shutil.rmtree(grave, ignore_errors=True)

    def names(self, queue: str) -> list[str]:
        """Return the names of the messages waiting in a queue, in no order."""
        with suppress(FileNotFoundError):
            found = os.listdir(self.folder(queue))  # noqa: PTH208  # there may be a million
            return [name for name in found if name[0] != "."]
        return []

    def purge(self, queue: str) -> int:
        """Delete the messages waiting in a queue and return how many there were."""
        names = self.names(queue)
        for name in names:
            (self.folder(queue) / name).unlink(missing_ok=True)
        return len(names)

    def bind(self, exchange: str, routing_key: str, queue: str) -> Path:
        """Bind a queue to an exchange and return the file that says so."""
        folder = self.bindings / escape(exchange)
        make(folder)
        binding = folder / f"{escape(queue)},{escape(routing_key)}"
        binding.touch()
        sync(folder)
        return binding

    def bindings_of(self, exchange: str) -> Iterator[tuple[str, str]]:
        """Yield (routing key, queue) for each binding of an exchange."""
        with suppress(FileNotFoundError):
            for binding in (self.bindings / escape(exchange)).iterdir():
                queue, routing_key = binding.name.split(",")
                yield unescape(routing_key), unescape(queue)

    def put(self, queue: str, message: RawMessage) -> bool:
        """Store a message and return True once it is on the disk, False if there is no such queue.

        Transient messages (delivery mode 1) are not waited for: they survive every process, but
        not the loss of power.

        Raises:
            SpoolFull: the queue's limit of bytes is reached.
            OSError: the disk refuses.
        """
        data = encode(message)
        durable = message["properties"].get("delivery_mode") != 1
        stamp = f"{time.time_ns():020d}-{os.urandom(6).hex()}"
        name = str(Name(stamp, 0, escape(queue)))
        draft, folder = self.drafts / name, self.folder(queue)
        try:
            self._reserve(queue, len(data))
            with draft.open("xb") as file:
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            draft.rename(folder / name)
            if durable:
                sync(folder)
        except FileNotFoundError:
            self._policies.pop(queue, None)
            return False
        finally:
            draft.unlink(missing_ok=True)
        return True

    def _reserve(self, queue: str, size: int) -> None:
        """Refuse what exceeds the queue's limit, counting anew at most 2 % of the time."""
        limit = self.policy(queue).arguments.get("x-max-length-bytes", MAX_QUEUE_BYTES)
        used, due = self._used.get(queue, (0, 0.0))
        started = time.monotonic()
        if started >= due:
            used = 0
            for entry in os.scandir(self.folder(queue)):
                with suppress(FileNotFoundError):
                    used += entry.stat().st_size
            ended = time.monotonic()
            due = ended + max(1.0, 50 * (ended - started))
        if used + size > limit:
            raise SpoolFull(f"queue {queue!r} holds {used} of {limit} bytes")
        self._used[queue] = used + size, due

    def claim(self) -> tuple[Path, int]:
        """Make a folder for what a consumer takes; it is the consumer's while its lock is held."""
        draft = self.drafts / f"{os.getpid()}-{uuid4().hex}"
        draft.mkdir(mode=0o700)
        held = lock(draft, fcntl.LOCK_EX)
        if held is None:
            raise OSError("cannot lock a new folder")
        return draft.rename(self.claimed / draft.name), held

    def take(self, queue: str, claim: Path) -> RawMessage | None:
        """Move the oldest message of a queue into `claim` and return it; None if none waits."""
        folder = self.folder(queue)
        listing = self._listings.setdefault(queue, Listing(folder))
        while (text := listing.pop()) is not None:
            try:
                name = Name.parse(text)
            except ValueError as error:
                self.set_aside(folder / text, error)
                continue
            name = name._replace(deliveries=name.deliveries + 1)
            taken = claim / str(name)
            with suppress(FileNotFoundError):  # another consumer was faster
                (folder / text).rename(taken)
                if message := self._open(taken, name):
                    return message
        return None

    def _open(self, taken: Path, name: Name) -> RawMessage | None:
        """Return the message, or None when it is dead, damaged or expired and has been put away."""
        policy = self.policy(unquote(name.queue))
        limit = policy.arguments.get("x-delivery-limit", DELIVERY_LIMIT)
        if name.deliveries > limit + 1 and name.queue != DEAD_QUEUE:
            self.bury(taken, "delivery_limit")
            return None
        try:
            message = decode(taken.read_bytes(), name, f"{taken.parent.name}/{name}")
            expiration = float(message["properties"].get("expiration", "inf")) / 1000
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            self.set_aside(taken, error)
            return None
        if name.age > min(policy.ttl, expiration):
            taken.unlink()
            return None
        return message

    def give_back(self, taken: Path) -> None:
        """Put a message back to where it was in its queue."""
        name = Name.parse(taken.name)
        self._listings.pop(unquote(name.queue), None)
        self._move(taken, name)

    def bury(self, taken: Path, reason: str) -> None:
        """Move a message to the dead-letter queue."""
        name = Name.parse(taken.name)
        arguments = self.policy(unquote(name.queue)).arguments
        dead = escape(arguments.get("x-dead-letter-routing-key", DEAD_QUEUE))
        if name.queue == dead:
            self.set_aside(taken, ValueError(f"a dead letter was refused: {reason}"))
        else:
            self._move(taken, Name(name.stamp, 0, dead, reason, name.queue))

    def _move(self, taken: Path, name: Name) -> None:
        try:
            taken.rename(self.queues / name.queue / str(name))
        except FileNotFoundError as error:
            if taken.exists():
                self.set_aside(taken, error)

    def set_aside(self, path: Path, error: Exception) -> None:
        """Keep a file that no queue can, and say so."""
        kept = self.unreadable / f"{time.time_ns()}-{path.name[-50:]}"
        with suppress(FileNotFoundError):
            path.rename(kept)
            logger.error("spool: set aside %s as %s: %r", path, kept, error)

    def release(self, claim: Path) -> int:
        """Give back all of a claimed folder, whose lock the caller holds, and return how many."""
        taken = list(claim.iterdir())
        for path in taken:
            try:
                self.give_back(path)
            except ValueError as error:
                self.set_aside(path, error)
        return len(taken)

    def tidy(self) -> None:
        """Every few seconds: give back what the dead had taken, and clear up after them."""
        if time.monotonic() < self._tidy_at:
            return
        self._tidy_at = time.monotonic() + _TIDY_SECONDS
        for claim in self.claimed.iterdir():
            self._recover(claim)
        for folder in self.queues.iterdir():
            self.sweep(unquote(folder.name))
        for draft in self.drafts.iterdir():
            with suppress(FileNotFoundError):
                if time.time() - draft.stat().st_mtime > _DRAFT_SECONDS:
                    shutil.rmtree(draft) if draft.is_dir() else draft.unlink()

    def _recover(self, claim: Path) -> None:
        held = lock(claim, fcntl.LOCK_EX)
        if held is None:
            return
        try:
            count = self.release(claim)
            claim.rmdir()
            if count:
                logger.warning("spool: gave back %d messages of dead %s", count, claim.name)
        finally:
            os.close(held)

    def sweep(self, queue: str) -> None:
        """Delete a queue whose listeners are gone, or else its expired messages."""
        with suppress(FileNotFoundError):  # another consumer sweeps, too
            policy = self.policy(queue)
            held = lock(self.folder(queue), fcntl.LOCK_EX) if policy.transient else None
            if held is not None:
                self.delete(queue)
                os.close(held)
            elif policy.ttl < float("inf"):
                self._expire(queue, policy.ttl)

    def _expire(self, queue: str, ttl: float) -> None:
        for text in self.names(queue):
            with suppress(ValueError):
                if Name.parse(text).age > ttl:
                    (self.folder(queue) / text).unlink(missing_ok=True)


class QoS(virtual.QoS):
    """The messages a channel has taken, in a claimed folder of its own.

    A delivery tag is the message's path under `claimed/`, so any channel can settle it.
    """

    def __init__(self, channel: "Channel", prefetch_count: int = 0) -> None:
        super().__init__(channel, prefetch_count)
        # kombu's finalizer would keep a dropped channel, and its lock, until the process ends.
        self._on_collect.cancel()  # type: ignore[attr-defined]  # not in the stubs
        self._spool = channel.spool
        self.claim, held = self._spool.claim()
        self._unlock = weakref.finalize(self, os.close, held)

    @override
    def ack(self, delivery_tag: str) -> None:
        (self._spool.claimed / delivery_tag).unlink(missing_ok=True)
        super().ack(delivery_tag)

    @override
    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        taken = self._spool.claimed / delivery_tag
        if requeue:
            self._spool.give_back(taken)
        else:
            self._spool.bury(taken, "rejected")
        super().ack(delivery_tag)

    @override
    def restore_unacked(self) -> None:
        self._spool.release(self.claim)
        for tag in list(self._delivered or ()):
            super().ack(tag)

    @override
    def restore_unacked_once(self, stderr: Any = None) -> None:
        if self._unlock.alive:
            self.restore_unacked()
            self.claim.rmdir()
            self._unlock()


class Channel(virtual.Channel):
    """A kombu channel over the spool.

    Publishing to a queue that does not exist raises `Unroutable`, mandatory or not; so does a
    direct exchange that leads nowhere. Broadcasts without listeners vanish, as they should.
    """

    QoS = QoS
    supports_fanout = True
    body_encoding = "utf-8"  # kombu's word for "as it is"

    def __init__(self, connection: "Transport", **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        self.spool = connection.spool
        self._held: dict[str, Callable[[], Any]] = {}

    @override
    def queue_declare(
        self, queue: str | None = None, passive: bool = False, **kwargs: Any
    ) -> queue_declare_ok_t:
        if passive and queue and self._has_queue(queue):  # kombu would make it anew
            return queue_declare_ok_t(queue, self._size(queue), 0)
        return super().queue_declare(queue, passive, **kwargs)

    @override
    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return self.spool.folder(queue).is_dir()

    @override
    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        if queue in self._held:
            return
        arguments = kwargs.get("arguments") or {}
        owned = kwargs.get("exclusive") or kwargs.get("auto_delete")
        policy = Policy(bool(owned or "x-expires" in arguments), arguments)
        held = self.spool.declare(queue, policy)
        self._held[queue] = weakref.finalize(self, os.close, held)

    @override
    def queue_delete(
        self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any
    ) -> None:
        if not (if_empty and self._size(queue)):
            self.spool.delete(queue)
            self._held.pop(queue, lambda: None)()

    @override
    def after_reply_message_received(self, queue: str) -> None:
        """Keep the reply queue, as AMQP does: it goes with its channel."""

    @override
    def prepare_queue_arguments(self, arguments: dict[str, Any] | None, **kwargs: Any) -> Any:
        return to_rabbitmq_queue_arguments(arguments, **kwargs)

    @override
    def queue_bind(
        self, queue: str, exchange: str | None = None, routing_key: str = "", *_: Any, **__: Any
    ) -> None:
        self.spool.bind(exchange or "amq.direct", routing_key or "", queue)

    @override
    def queue_unbind(
        self, queue: str, exchange: str | None = None, routing_key: str = "", *_: Any, **__: Any
    ) -> None:
        self.spool.bind(exchange or "amq.direct", routing_key or "", queue).unlink(missing_ok=True)

    @override
    def get_table(self, exchange: str) -> list[Any]:
        kind = self.typeof(exchange)
        bindings = self.spool.bindings_of(exchange)
        return [kind.prepare_bind(queue, exchange, key, None) for key, queue in bindings]

    @override
    def basic_publish(
        self, message: RawMessage, exchange: str, routing_key: str, **options: Any
    ) -> None:
        self._inplace_augment_message(message, exchange, routing_key)
        queues = self._lookup(exchange, routing_key) if exchange else [routing_key]
        reached = [self.spool.put(queue, message) for queue in queues]
        direct = not exchange or self.typeof(exchange).type == "direct"
        if not any(reached) and (direct or options.get("mandatory")):
            text = f"NO_ROUTE from exchange {exchange!r} with routing key {routing_key!r}"
            raise Unroutable(text, (60, 40), "Basic.publish", 312)

    @override
    def basic_consume(self, queue: str, no_ack: bool, callback: Any, *args: Any, **kw: Any) -> Any:
        def acknowledged(message: Any) -> Any:
            self.basic_ack(message.delivery_tag)
            return callback(message)

        return super().basic_consume(
            queue, False, acknowledged if no_ack else callback, *args, **kw
        )

    @override
    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        message: Any = super().basic_get(queue)
        if message and no_ack:
            self.basic_ack(message.delivery_tag)
        return message

    @override
    def drain_events(self, timeout: float | None = None, callback: Any = None) -> None:
        if self._consumers:
            self.spool.tidy()
        super().drain_events(timeout, callback)

    @override
    def _get(self, queue: str, timeout: float | None = None) -> RawMessage:
        message = self.spool.take(queue, cast("QoS", self.qos).claim)
        if message is None:
            raise Empty
        return message

    @override
    def _size(self, queue: str) -> int:
        return len(self.spool.names(queue))

    @override
    def _purge(self, queue: str) -> int:
        return self.spool.purge(queue)

    @override
    def close(self) -> None:
        super().close()
        while self._held:
            queue, unlock = self._held.popitem()
            unlock()
            self.spool.sweep(queue)


class Transport(virtual.Transport):
    """kombu's transport for `spool:///absolute/folder`; the folder is made when connecting."""

    Channel = Channel
    can_parse_url = True
    driver_type = driver_name = "spool"
    polling_interval = _POLL_SECONDS
    connection_errors = recoverable_connection_errors = (OSError,)
    channel_errors = (ChannelError,)
    recoverable_channel_errors = ()  # repeated by kombu otherwise, and none gets better by that
    implements = virtual.Transport.implements.extend(
        exchange_type=frozenset({"direct", "topic", "fanout"})
    )

    spool: Spool

    def __init__(self, client: Connection, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        url = urlsplit(str(client.hostname))
        if url.netloc or not url.path.strip("/"):
            raise ValueError("the spool's URL must be spool:///absolute/folder")
        self._root = Path(unquote(url.path))

    @override
    def establish_connection(self) -> Any:
        self.spool = Spool(self._root)
        return super().establish_connection()


TRANSPORT_ALIASES["spool"] = "shared.spool:Transport"
