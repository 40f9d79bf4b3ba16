"""Whether the broker has any message of some queues, waiting or with a worker.

A queue's declaration tells the waiting ones only. The rest is known to the folder itself, where the
spool is the broker, and to the management API of RabbitMQ.
"""

import base64
import json
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from shutil import disk_usage
from typing import Any, Final, Protocol
from urllib.parse import quote, unquote, urlsplit

from shared.errors import BrokerUnavailable

_SECONDS: Final = 2.0
_HTTP_OK: Final = 200
_NOBODY: Final = "only RabbitMQ's management API knows (BROKER_API_URL)"


@dataclass(frozen=True, slots=True)
class Disk:
    """Where a broker keeps its messages.

    Attributes:
        node: of RabbitMQ, or the spool's folder.
        free: bytes.
        limit: with less than that free, the broker takes nothing more; None if it has no limit.
        alarm: whether it takes nothing more, of disk or memory.
    """

    node: str
    free: int
    limit: int | None
    alarm: bool


class Inventory(Protocol):
    """Looks at what the broker has.

    Attributes:
        lag: seconds by which a look may be old: what was published before a moment and is not
            seen `lag` seconds after it has left the broker.
        pause: seconds to leave between two looks.
    """

    lag: float
    pause: float

    def empty(self, queues: Collection[str]) -> bool:
        """Return whether none of the queues has a message, waiting or taken.

        Raises:
            BrokerUnavailable: nobody can tell.
        """
        ...

    def disks(self) -> list[Disk]:
        """Return the disks of the broker's nodes.

        Raises:
            BrokerUnavailable: nobody can tell.
        """
        ...


def inventory(broker_url: str, api_url: str) -> Inventory:
    """Return the inventory of a broker.

    Args:
        broker_url: `amqp://…`, `amqps://…` or `spool:///folder`.
        api_url: of RabbitMQ's management API, `http://user:password@host:15672/api`; "" for none.
    """
    if broker_url.startswith("spool:"):
        return Folder(Path(unquote(urlsplit(broker_url).path)))
    return Management(api_url, broker_url) if api_url else Nobody()


class Nobody:
    """In place of an inventory where there is none."""

    lag = 0.0  # nothing to wait for
    pause = 5.0

    def empty(self, queues: Collection[str]) -> bool:  # noqa: ARG002  # there is nobody to ask
        """Raise BrokerUnavailable: nobody can tell."""
        raise BrokerUnavailable(_NOBODY)

    def disks(self) -> list[Disk]:
        """Raise BrokerUnavailable: nobody can tell."""
        raise BrokerUnavailable(_NOBODY)


class Folder:
    """The spool: a message is a file, in its queue's folder or in that of who has taken it."""

    lag = 0.0
    pause = 1.0

    def __init__(self, root: Path) -> None:
        self._root = root

    def empty(self, queues: Collection[str]) -> bool:
        """Return whether no file is a message of these queues.

        Raises:
            BrokerUnavailable: the folder cannot be read.
        """
        try:
            # Taken ones twice: a message may leave its queue, or come back to it, meanwhile.
            looks = (self._taken(queues), self._waiting(queues), self._taken(queues))
            return not any(any(True for _ in look) for look in looks)
        except OSError as error:
            raise BrokerUnavailable(f"the spool cannot be read: {error.strerror}") from error

    def disks(self) -> list[Disk]:
        """Return the folder's disk.

        Raises:
            BrokerUnavailable: the folder cannot be read.
        """
        try:
            return [Disk("spool", disk_usage(self._root).free, None, alarm=False)]
        except OSError as error:
            raise BrokerUnavailable(f"the spool cannot be read: {error.strerror}") from error

    def _waiting(self, queues: Collection[str]) -> Iterator[str]:
        for queue in queues:
            with os.scandir(self._root / "queues" / queue) as files:
                yield from (file.name for file in files if not file.name.startswith("."))

    def _taken(self, queues: Collection[str]) -> Iterator[str]:
        for claim in (self._root / "claimed").iterdir():
            try:
                names = os.listdir(claim)  # noqa: PTH208  # names are all that is needed
            except FileNotFoundError:  # its owner has left, and given back what it had
                continue
            # The third part of a name is its queue: see `shared.spool.Name`.
            yield from (name for name in names if {*name.split(",")[2:3]} & {*queues})


class Management:
    """RabbitMQ's management API. A queue's figures are one moment's, taken every five seconds."""

    lag = 15.0  # three times as long as a queue's leader takes to say how it is
    pause = 5.0

    def __init__(self, api_url: str, broker_url: str) -> None:
        api, broker = urlsplit(api_url), urlsplit(broker_url.partition(";")[0])
        # An empty path is the default virtual host, as kombu reads it.
        vhost = quote(unquote(broker.path[1:]) or "/", safe="")
        self._api = api
        self._queues = f"{api.path.rstrip('/')}/queues/{vhost}"
        self._nodes = f"{api.path.rstrip('/')}/nodes"
        user = unquote(api.username or broker.username or "guest")
        password = unquote(api.password or broker.password or "guest")
        credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {credentials}"}

    def empty(self, queues: Collection[str]) -> bool:
        """Return whether the queues said last that they have no message.

        Raises:
            BrokerUnavailable: the API cannot be reached, refuses, or does not know of a queue.
        """
        try:
            found = {each["name"]: each for each in self._ask(self._queues)}
            return not any(_messages(found[queue]) for queue in queues)
        except (KeyError, TypeError) as error:
            raise BrokerUnavailable("RabbitMQ's management API does not know all queues") from error

    def disks(self) -> list[Disk]:
        """Return the disks of the nodes that run.

        Raises:
            BrokerUnavailable: the API cannot be reached, or refuses.
        """
        try:
            return [_disk(node) for node in self._ask(self._nodes) if node["running"]]
        except (KeyError, TypeError) as error:
            raise BrokerUnavailable("RabbitMQ's management API does not know its nodes") from error

    def _ask(self, path: str) -> Any:
        try:
            return self._get(path)
        except (OSError, HTTPException, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise BrokerUnavailable(f"RabbitMQ's management API: {reason}") from error

    def _get(self, path: str) -> Any:
        secure = self._api.scheme == "https"
        kind = HTTPSConnection if secure else HTTPConnection
        host, port = self._api.hostname or "", self._api.port
        connection = kind(host, port or (443 if secure else 80), timeout=_SECONDS)
        try:
            connection.request("GET", path, headers=self._headers)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != _HTTP_OK:
            raise HTTPException(f"{answer.status} {answer.reason}")
        return json.loads(body)


def _disk(node: dict[str, Any]) -> Disk:
    alarm = bool(node["disk_free_alarm"] or node["mem_alarm"])
    return Disk(node["name"], int(node["disk_free"]), int(node["disk_free_limit"]), alarm)


def _messages(queue: dict[str, Any]) -> int:
    # Said by a queue whose leader has just come, or is gone: it does not know yet, or any more.
    if queue.get("state") != "running":
        raise KeyError("messages")
    return int(queue["messages"])
