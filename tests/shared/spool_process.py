"""Another process at the spool: `python -m tests.shared.spool_process MODE URL QUEUE`.

Prints one line for each thing that has happened for good, so that a test can kill it any time.
"""

import os
import signal
import sys
from itertools import count
from typing import Any, NoReturn

from kombu import Connection, Exchange, Queue
from kombu.message import Message

import shared.spool  # noqa: F401  # registers the transport

QUEUES = [Queue(name, Exchange(""), name) for name in ("work", "dead")]
FILE_OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "fcntl.flock"}


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def publish(connection: Connection, queue: str) -> None:
    producer = connection.Producer()
    for number in count():
        name = f"{os.getpid()}-{number}"
        producer.publish(name, routing_key=queue)
        say(name)


def consume(connection: Connection, queue: str, *, acknowledge: bool = True) -> None:
    def receive(body: str, message: Message) -> None:
        if acknowledge:
            message.ack()
        say(body)

    with connection.Consumer([Queue(queue, Exchange(""), queue)], callbacks=[receive]):
        say("ready")
        while True:
            connection.drain_events()


def listen(connection: Connection, queue: str) -> None:
    exchanges = [Exchange("news", "fanout", durable=False), Exchange("log", "topic", durable=False)]
    queues = [
        Queue(f"{exchange.name}.{queue}", exchange, "a.#", exclusive=True, auto_delete=True)
        for exchange in exchanges
    ]
    with connection.Consumer(queues, callbacks=[lambda body, _: say(body)], no_ack=True):
        say("ready")
        while True:
            connection.drain_events()


def crash(url: str) -> None:
    """Kill a child before each of its file operations in turn, and say what became of a message."""
    for operation in count(1):
        with Connection(f"{url}/{operation}") as connection:
            for queue in QUEUES:
                queue(connection.default_channel).declare()
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            live(f"{url}/{operation}", writer, operation)
        os.close(writer)
        _, status = os.waitpid(child, 0)
        with os.fdopen(reader) as pipe:
            steps = pipe.read().split()
        say(f"{steps[-1] if steps else 'started'} {look(f'{url}/{operation}')}")
        if not status:
            return


def live(url: str, writer: int, deadly: int) -> NoReturn:
    """Lead a message through all it may meet; die before file operation number `deadly`."""
    operations = count(1)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FILE_OPERATIONS and next(operations) == deadly:
            os.kill(os.getpid(), signal.SIGKILL)

    connection = Connection(url)
    channel: Any = connection.default_channel
    producer = connection.Producer()
    sys.addaudithook(watch)
    producer.publish("x", routing_key="work")
    os.write(writer, b"published ")
    channel.basic_get("work").requeue()
    channel.basic_get("work").reject()
    letter = channel.basic_get("dead")
    os.write(writer, b"acknowledging ")
    letter.ack()
    os.write(writer, b"acknowledged ")
    os._exit(0)


def look(url: str) -> str:
    """Return where a new consumer finds messages: a queue's name for each."""
    found = []
    with Connection(url) as connection:
        channel: Any = connection.default_channel
        channel.spool.tidy()
        for queue in QUEUES:
            while message := channel.basic_get(queue.name):
                message.ack()
                found.append(queue.name)
        found += ["unreadable" for _ in channel.spool.unreadable.iterdir()]
    return " ".join(found) or "nothing"


def main(mode: str, url: str, queue: str) -> None:
    if mode == "crash":
        crash(url)
        return
    with Connection(url) as connection:
        match mode:
            case "publish":
                publish(connection, queue)
            case "consume":
                consume(connection, queue)
            case "hold":
                consume(connection, queue, acknowledge=False)
            case "listen":
                listen(connection, queue)
            case _:
                raise ValueError(mode)


if __name__ == "__main__":
    main(*sys.argv[1:])
