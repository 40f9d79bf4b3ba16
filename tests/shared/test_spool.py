import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Connection, Exchange, Queue
from kombu.exceptions import ChannelError
from kombu.message import Message

from shared import spool
from shared.spool import DELIVERY_LIMIT, Name, SpoolFull, Unroutable

ROOT = Path(__file__).parents[2]
WORK = Queue("work", Exchange(""), routing_key="work")
DEAD = Queue("dead", Exchange(""), routing_key="dead")


class Process:
    """A child process, whose lines go to a file, where a test waits for them."""

    def __init__(self, output: Path, *command: str) -> None:
        self.output = output
        errors = output.with_suffix(".errors")  # beside the output, to be read after a failure
        with output.open("w") as out, errors.open("w") as err:
            self.child = subprocess.Popen(
                [sys.executable, "-m", *command], cwd=ROOT, stdout=out, stderr=err
            )

    def lines(self) -> list[str]:
        """All lines that are complete: a kill may cut the last one."""
        return self.output.read_text().rpartition("\n")[0].splitlines()

    def says(self, line: str) -> bool:
        return line in self.lines()

    def has_said(self, lines: int) -> bool:
        return len(self.lines()) >= lines

    def kill(self) -> None:
        self.child.kill()
        self.child.wait(10)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def url(root: Path) -> str:
    return f"spool://{root}"


@pytest.fixture
def connection(url: str) -> Iterator[Connection]:
    with Connection(url) as connection:
        for queue in (WORK, DEAD):
            queue(channel_of(connection)).declare()
        yield connection


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(*command: str) -> Process:
        process = Process(tmp_path / f"output{len(started)}", *command)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


def until(condition: Callable[..., Any], *arguments: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition(*arguments):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def publish(connection: Connection, body: Any, queue: str = "work", **options: Any) -> None:
    connection.Producer().publish(body, exchange="", routing_key=queue, **options)


def channel_of(connection: Connection) -> Any:  # the stubs know no channel's methods
    return connection.default_channel


def get(connection: Connection, queue: str = "work") -> Any:
    message = channel_of(connection).basic_get(queue)
    assert message is not None
    return message


def size(connection: Connection, queue: str = "work") -> int:
    count: int = channel_of(connection).queue_declare(queue, passive=True).message_count
    return count


def drain(url: str, queue: Queue, expected: int) -> list[Any]:
    """Take and acknowledge messages as a new consumer, until it has `expected` and no more come."""
    bodies = []

    def receive(body: Any, message: Message) -> None:
        bodies.append(body)
        message.ack()

    with Connection(url) as connection, connection.Consumer([queue], callbacks=[receive]):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                connection.drain_events(timeout=0.2)
            except TimeoutError:
                if len(bodies) >= expected:
                    break
    return bodies


def files(root: Path, folder: str) -> list[Path]:
    return [path for path in (root / folder).rglob("*") if path.is_file() and path.name[0] != "."]


def test_keeps_the_order_and_forgets_what_is_acknowledged(
    connection: Connection, root: Path
) -> None:
    for number in range(300):  # more than are listed at once
        publish(connection, {"number": number, "text": "ä"})
    assert size(connection) == 300

    for number in range(300):
        message = get(connection)
        assert message.payload == {"number": number, "text": "ä"}
        assert message.delivery_info["redelivered"] is False
        message.ack()

    assert channel_of(connection).basic_get("work") is None
    assert files(root, ".") == []


def test_is_for_its_owner_only(connection: Connection, root: Path) -> None:
    publish(connection, 1)
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}


def test_carries_bytes_of_any_kind(connection: Connection) -> None:
    body = bytes(range(256)) * 10
    publish(connection, body, content_type="application/x-raw", content_encoding="binary")
    assert get(connection).body == body


def test_a_requeued_message_comes_first_and_is_counted(connection: Connection) -> None:
    for number in range(3):
        publish(connection, number)
    get(connection).requeue()
    again = get(connection)
    assert again.payload == 0
    assert again.delivery_info["redelivered"] is True
    assert again.headers["x-delivery-count"] == 1


def test_a_rejected_message_is_a_dead_letter_with_its_reason(connection: Connection) -> None:
    publish(connection, "bad")
    get(connection).reject()
    assert size(connection) == 0
    letter = get(connection, "dead")
    assert letter.payload == "bad"
    assert letter.headers["x-death"] == [{"reason": "rejected", "queue": "work", "count": 1}]
    letter.requeue()
    assert get(connection, "dead").headers["x-first-death-reason"] == "rejected"


def test_without_a_dead_letter_queue_a_rejected_message_is_kept(
    connection: Connection, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    channel_of(connection).queue_delete("dead")
    publish(connection, "bad")
    get(connection).reject()
    assert files(root, "unreadable")[0].read_bytes().endswith(b"\nbad")
    assert "set aside" in caplog.text


def test_refused_dead_letters_are_kept(connection: Connection, root: Path) -> None:
    publish(connection, "bad", "dead")
    get(connection, "dead").reject()
    assert size(connection, "dead") == 0
    assert files(root, "unreadable")[0].read_bytes().endswith(b"\nbad")


def test_a_queue_nobody_declared_is_an_error(connection: Connection, root: Path) -> None:
    for queue in ("missing", "", "..", "../../outside"):
        with pytest.raises(Unroutable, match="NO_ROUTE"):
            publish(connection, 1, queue)
    with pytest.raises(ChannelError, match="NO_ROUTE"):
        connection.Producer().publish(1, exchange="direct", routing_key="missing")
    with pytest.raises(ChannelError, match="NO_ROUTE"):
        connection.Producer().publish(
            1, exchange="news", declare=[Exchange("news", "fanout")], mandatory=True
        )
    assert files(root, ".") == []


def test_a_passive_declaration_makes_nothing(connection: Connection) -> None:
    with pytest.raises(ChannelError, match="NOT_FOUND"):
        size(connection, "missing")
    with pytest.raises(ChannelError, match="NOT_FOUND"):
        size(connection, "missing")


def test_purge(connection: Connection) -> None:
    for number in range(3):
        publish(connection, number)
    held = get(connection)
    assert channel_of(connection).queue_purge("work") == 2
    assert size(connection) == 0
    held.requeue()
    assert size(connection) == 1


def test_closing_a_channel_returns_what_it_holds(connection: Connection) -> None:
    for number in range(3):
        publish(connection, number)
    channel: Any = connection.channel()
    assert [channel.basic_get("work").payload for _ in range(2)] == [0, 1]
    channel.close()
    assert [get(connection).payload for _ in range(3)] == [0, 1, 2]


def test_a_dropped_connection_returns_what_it_holds(connection: Connection, url: str) -> None:
    publish(connection, 1)
    get(connection)
    connection.collect()
    assert drain(url, WORK, 1) == [1]


def test_prefetch_bounds_what_is_taken(connection: Connection) -> None:
    for number in range(3):
        publish(connection, number)
    taken: list[Message] = []
    with connection.Consumer([WORK], callbacks=[lambda _, message: taken.append(message)]) as one:
        one.qos(prefetch_count=1)
        connection.drain_events(timeout=5)
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.1)
        assert len(taken) == 1
        taken[0].ack()
        connection.drain_events(timeout=5)
    assert [message.payload for message in taken] == [0, 1]


def test_after_the_delivery_limit_a_message_is_dead(connection: Connection) -> None:
    publish(connection, "poison")
    publish(connection, "good")
    for _ in range(DELIVERY_LIMIT + 1):
        message = get(connection)
        assert message.payload == "poison"
        message.requeue()
    assert get(connection).payload == "good"
    assert get(connection, "dead").headers["x-first-death-reason"] == "delivery_limit"


def test_a_full_queue_refuses(connection: Connection) -> None:
    limit = {"x-max-length-bytes": 10_000}
    Queue("small", Exchange(""), "small", queue_arguments=limit)(channel_of(connection)).declare()
    accepted = 0
    with pytest.raises(SpoolFull, match="bytes"):  # noqa: PT012  # the loop is the test
        for _ in range(100):
            publish(connection, "x" * 1000, "small")
            accepted += 1
    assert accepted == size(connection, "small")
    assert 5 <= accepted <= 9

    with Connection(connection.as_uri()) as other, pytest.raises(SpoolFull):
        publish(other, "x" * 5000, "small")  # a new process counts what is there
    channel_of(connection).queue_purge("small")
    with Connection(connection.as_uri()) as other:
        publish(other, "x" * 1000, "small")


def test_expired_messages_are_dropped(connection: Connection) -> None:
    ticks = Queue("ticks", Exchange(""), "ticks", queue_arguments={"x-message-ttl": 1})
    ticks(channel_of(connection)).declare()
    publish(connection, "old", "ticks")
    publish(connection, "old", expiration=0.001)
    publish(connection, "new", expiration=60)
    time.sleep(0.01)  # both have expired
    assert channel_of(connection).basic_get("ticks") is None
    assert get(connection).payload == "new"


def test_damaged_and_foreign_files_do_not_stop_the_queue(
    connection: Connection, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(connection, "torn" * 100)
    (torn,) = files(root, "queues")
    torn.write_bytes(torn.read_bytes()[:-10])
    folder = root / "queues" / "work"
    (folder / "foreign").write_text("?")
    (folder / "0-a,0,work,,").write_text("[]")
    (folder / "0-b,0,work,,").write_bytes(b'{"length": 0, "properties": {}, "headers": {}}\n')
    (folder / "0-c,0,work,,").write_bytes(b"\xff\xfe")
    publish(connection, "good")

    assert get(connection).payload == "good"
    assert channel_of(connection).basic_get("work") is None
    assert len(files(root, "unreadable")) == 5
    assert caplog.text.count("set aside") == 5


def test_threads_publish_at_once(url: str, connection: Connection) -> None:
    def work(thread: int) -> None:
        with Connection(url) as own:
            for number in range(50):
                publish(own, [thread, number])

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bodies = drain(url, WORK, 200)
    assert sorted(bodies) == [[thread, number] for thread in range(4) for number in range(50)]
    for one in range(4):
        assert [number for thread, number in bodies if thread == one] == list(range(50))


@pytest.mark.parametrize("bad", ["spool://data/x", "spool:///", "spool://"])
def test_the_folder_must_be_absolute(bad: str) -> None:
    with pytest.raises(ValueError, match="absolute"), Connection(bad) as connection:
        connection.connect()


def test_what_a_killed_consumer_held_comes_back_once(
    connection: Connection, url: str, root: Path, start: Callable[..., Process]
) -> None:
    for number in range(20):
        publish(connection, number)
    holder = start("tests.shared.spool_process", "hold", url, "work")
    until(holder.has_said, 21)
    assert size(connection) == 0
    assert drain(url, WORK, 0) == []  # they are not given back while it lives

    holder.kill()
    assert drain(url, WORK, 20) == list(range(20))
    assert files(root, ".") == []
    assert list((root / "claimed").iterdir()) == []


def test_a_kill_before_any_file_operation_leaves_exactly_one_message(
    url: str, start: Callable[..., Process]
) -> None:
    process = start("tests.shared.spool_process", "crash", url, "")
    assert process.child.wait(60) == 0
    outcomes = {step: set[str]() for step in ("started", "published", "acknowledging")}
    *crashes, last = process.lines()
    for line in crashes:
        step, found = line.split(maxsplit=1)
        outcomes[step].add(found)
    assert len(crashes) > 15
    assert outcomes["started"] == {"nothing", "work"}  # not confirmed: either will do
    assert outcomes["published"] == {"work", "dead"}
    assert outcomes["acknowledging"] == {"dead"}
    assert last == "acknowledged nothing"


def test_a_waiting_consumer_gets_what_another_held(
    connection: Connection, url: str, start: Callable[..., Process]
) -> None:
    publish(connection, "held")
    holder = start("tests.shared.spool_process", "hold", url, "work")
    until(holder.says, "held")
    waiting = start("tests.shared.spool_process", "consume", url, "work")
    until(waiting.says, "ready")
    holder.kill()
    until(waiting.says, "held")


def test_killed_publishers_lose_nothing_they_confirmed(
    connection: Connection, url: str, root: Path, start: Callable[..., Process]
) -> None:
    confirmed: list[str] = []
    for round_ in range(6):
        publisher = start("tests.shared.spool_process", "publish", url, "work")
        until(publisher.has_said, 5 + 7 * round_)
        publisher.kill()
        confirmed += publisher.lines()

    found = Counter(drain(url, WORK, len(confirmed)))
    assert set(confirmed) <= set(found)
    assert set(found.values()) == {1}
    assert len(found) - len(confirmed) <= 6  # stored, but not yet confirmed when killed


def test_two_consumers_share_a_queue(
    connection: Connection, url: str, start: Callable[..., Process]
) -> None:
    consumers = [start("tests.shared.spool_process", "consume", url, "work") for _ in range(2)]
    until(lambda: all(consumer.lines() for consumer in consumers))
    for number in range(1000):
        publish(connection, str(number), delivery_mode=1)

    def taken() -> list[str]:
        return [line for consumer in consumers for line in consumer.lines() if line != "ready"]

    until(lambda: len(taken()) >= 1000)
    assert sorted(map(int, taken())) == list(range(1000))
    assert all(len(consumer.lines()) > 100 for consumer in consumers)


def test_broadcasts_reach_every_process_and_vanish_without_any(
    url: str, root: Path, start: Callable[..., Process]
) -> None:
    listeners = [start("tests.shared.spool_process", "listen", url, str(n)) for n in range(2)]
    until(lambda: all("ready" in listener.lines() for listener in listeners))
    news, log = Exchange("news", "fanout", durable=False), Exchange("log", "topic", durable=False)
    with Connection(url) as connection:
        producer = connection.Producer()
        producer.publish("to all", exchange=news, declare=[news])
        producer.publish("to some", exchange=log, declare=[log], routing_key="a.b.c")
        producer.publish("to none", exchange=log, declare=[log], routing_key="b")
        for listener in listeners:
            until(listener.has_said, 3)
            assert sorted(listener.lines()) == ["ready", "to all", "to some"]

        listeners[0].kill()
        drain(url, WORK, 0)  # any consumer clears up when it starts
        assert {path.name for path in (root / "queues").iterdir()} == {"news.1", "log.1", "work"}
        listeners[1].kill()
        drain(url, WORK, 0)
        assert {path.name for path in (root / "queues").iterdir()} == {"work"}
        assert files(root, "bindings") == []
        producer.publish("to nobody", exchange=news, declare=[news])
    assert files(root, ".") == []


def test_a_stopped_listener_does_not_fill_the_disk(
    url: str, root: Path, start: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = start("tests.shared.spool_process", "listen", url, "0")
    until(listener.says, "ready")
    listener.child.send_signal(signal.SIGSTOP)
    news = Exchange("news", "fanout", durable=False)
    with Connection(url) as connection:
        for number in range(10):
            connection.Producer().publish(number, exchange=news, declare=[news])
    assert len(files(root, "queues/news.0")) == 10
    monkeypatch.setattr(spool, "TRANSIENT_SECONDS", 0.001)
    drain(url, WORK, 0)
    assert files(root, "queues/news.0") == []
    assert (root / "queues" / "news.0").is_dir()


def test_a_listener_may_return_under_the_same_name_at_once(
    url: str, start: Callable[..., Process]
) -> None:
    news = Exchange("news", "fanout", durable=False)
    with Connection(url) as connection:
        for number in range(3):
            listener = start("tests.shared.spool_process", "listen", url, "same")
            until(listener.says, "ready")
            connection.Producer().publish(str(number), exchange=news, declare=[news])
            until(listener.says, str(number))
            listener.kill()


def test_what_dead_publishers_left_is_cleared(connection: Connection, url: str, root: Path) -> None:
    old, new = root / "drafts" / "old", root / "drafts" / "new"
    for draft in (old, new):
        draft.write_text("half a mess")
    os.utime(old, (0, 0))
    drain(url, WORK, 0)
    assert list((root / "drafts").iterdir()) == [new]


def test_names_survive_the_way_through_a_file_name() -> None:
    name = Name("00000000000000000007-ab", 3, "work", "rejected", "a%2Cb")
    assert Name.parse(str(name)) == name
    for text in ("", "..", "a,b/c", ".hidden", "celery@host.celery.pidbox", "%"):
        escaped = spool.escape(text)
        assert spool.unescape(escaped) == text
        assert not set(escaped) & set(",/")
        assert escaped[0] != "."


@pytest.fixture
def app(url: str) -> Iterator[Celery]:
    app = Celery("client", broker=url, set_as_current=False)
    app.conf.update(task_queues=[WORK], task_default_queue="work", task_ignore_result=True)
    with app.connection_for_write() as connection:
        WORK(channel_of(connection)).declare()
    yield app
    app.close()


def worker(start: Callable[..., Process], url: str, *options: str) -> Process:
    return start(
        *("celery", "-A", "tests.shared.spool_app", "-b", url, "worker", "--pool", "solo"),
        *("-n", "test@localhost", "--without-mingle", "--without-gossip", *options),
    )


def test_a_celery_worker_killed_again_and_again_loses_nothing(
    app: Celery, url: str, root: Path, start: Callable[..., Process], tmp_path: Path
) -> None:
    messages, journal = 600, tmp_path / "journal"
    journal.touch()

    def done() -> list[int]:
        return [int(line) for line in journal.read_text().splitlines()]

    def has_done(least: int) -> bool:
        return len(done()) >= least

    running = worker(start, url)
    for number in range(messages):
        app.send_task("record", (str(journal), number, "x" * 20_000))
    for kills in range(1, 4):
        until(has_done, kills * 100)
        running.kill()
        running = worker(start, url)
    until(lambda: len(set(done())) == messages and not files(root, "queues/work"))
    running.child.send_signal(signal.SIGTERM)
    running.child.wait(30)

    assert set(done()) == set(range(messages))
    assert len(done()) - messages <= 3  # done, but not yet acknowledged when killed
    assert files(root, "claimed") == []


def test_celery_events_and_remote_control(
    app: Celery, url: str, start: Callable[..., Process], tmp_path: Path
) -> None:
    events: Counter[str] = Counter()
    worker(start, url, "-E")
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(
            connection, handlers={"*": lambda event: events.update([event["type"]])}
        )
        with contextlib.closing(receiver.itercapture(limit=None, timeout=30)) as capture:
            next(capture)
            app.send_task("record", (str(tmp_path / "journal"), 1, ""))
            deadline = time.monotonic() + 30
            while not events["task-succeeded"]:
                assert time.monotonic() < deadline, events
                next(capture)
    for _ in range(2):  # the reply queue serves more than one question
        assert app.control.inspect(timeout=5, limit=1).ping() == {"test@localhost": {"ok": "pong"}}
