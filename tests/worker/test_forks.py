"""A child that is forked while a thread connects would inherit the locks of C libraries."""

import os
import socket
import warnings
from collections.abc import Callable
from threading import Event, Thread, Timer

import pytest
from pydantic import SecretStr

from shared.errors import DatabaseUnavailable
from shared.queue import celery_app
from worker.app import runtime
from worker.dead_letters import Reader
from worker.runtime import Runtime


def fork_and_wait() -> int:
    """Fork a child that ends at once; return its exit status."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads: they are what this is about
        child = os.fork()
    if child == 0:
        os._exit(0)
    return os.waitpid(child, 0)[1]


def to_the_database(port: int) -> tuple[Thread, Callable[[], None]]:
    url = f"postgresql+psycopg2://somebody@127.0.0.1:{port}/nothing"
    changes = {"database_url": SecretStr(url)}
    beside = Runtime(runtime.settings.model_copy(update=changes)).beside

    def connect() -> None:
        with pytest.raises(DatabaseUnavailable), beside.transaction() as session:
            session.connection()

    return Thread(target=connect), lambda: None


def to_the_broker(port: int) -> tuple[Thread, Callable[[], None]]:
    other = Runtime(runtime.settings)
    return Reader(celery_app(f"amqp://127.0.0.1:{port}"), other), other.stopping.set


@pytest.mark.parametrize("connecting", [to_the_database, to_the_broker])
def test_a_fork_waits_until_no_thread_of_the_main_process_connects(
    connecting: Callable[[int], tuple[Thread, Callable[[], None]]],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        thread, stop = connecting(server.getsockname()[1])
        thread.start()
        connection, _ = server.accept()  # it has said hello, and waits for an answer
        answered = Event()

        def answer() -> None:
            stop()
            server.close()
            answered.set()
            connection.close()

        timer = Timer(0.3, answer)
        timer.start()
        try:
            assert fork_and_wait() == 0
            assert answered.is_set()
        finally:
            timer.join()
            thread.join()


def test_forks_do_not_wait_otherwise() -> None:
    for _ in range(2):
        assert fork_and_wait() == 0
