"""A look into a real broker's queues, past Celery."""

from collections.abc import Iterator
from typing import Any

from kombu import Connection

from local.server import wait_until
from shared.queue import QUEUES


def take_all(url: str, queue: str) -> Iterator[Any]:
    """Take every message that is ready in a queue, raw; they are gone when this ends."""
    channel: Any
    with Connection(url) as connection, connection.channel() as channel:
        while message := channel.basic_get(queue, no_ack=True):
            yield channel.message_to_python(message)  # undecoded, whatever it is


def task_ids(url: str, queue: str) -> list[str]:
    """Take every message, and return the task ids."""
    return [str(message.headers["id"]) for message in take_all(url, queue)]


def depth(url: str, queue: str) -> int:
    """Return how many messages are ready in a queue."""
    return int(_declared(url, queue).message_count)


def consumers(url: str, queue: str) -> int:
    """Return how many workers consume a queue."""
    return int(_declared(url, queue).consumer_count)


def _declared(url: str, queue: str) -> Any:
    with Connection(url) as connection, connection.channel() as channel:
        return QUEUES[queue](channel).queue_declare(passive=True)


def wait_for_depth(url: str, queue: str, messages: int, deadline: float = 20) -> None:
    found: list[int] = []

    def is_there() -> bool:
        found.append(depth(url, queue))
        return found[-1] == messages

    assert wait_until(is_there, deadline), f"{queue} has {found[-1]} messages, not {messages}"


def put_raw(url: str, queue: str, body: bytes, **properties: Any) -> None:
    """Put a message that none of our senders would write."""
    channel: Any
    with Connection(url) as connection, connection.channel() as channel:
        message = channel.prepare_message(
            body,
            content_type=properties.pop("content_type", "application/json"),
            content_encoding=properties.pop("content_encoding", "utf-8"),
            headers=properties.pop("headers", None),
            properties={"delivery_mode": 2, **properties},
        )
        channel.basic_publish(message, exchange="", routing_key=queue)
