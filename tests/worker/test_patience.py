import os
from collections.abc import Callable
from itertools import islice, pairwise
from threading import Timer
from time import monotonic

import pytest

from shared.errors import DatabaseUnavailable
from worker import patience
from worker.patience import GiveBack, Patience, Stopping, backoff


class FakeTime:
    """Time that passes only while somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.stop_at = float("inf")
        self.stopping = Stopping()
        monkeypatch.setattr(patience, "monotonic", lambda: self.now)
        monkeypatch.setattr(patience, "sleep", self._sleep)

    def _sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
        if self.now >= self.stop_at:
            self.stopping.set()


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    return FakeTime(monkeypatch)


def patient(time: FakeTime) -> Patience:
    return Patience(time.stopping, initial=0.25, maximum=5, give_back=600)


def away(times: int) -> tuple[list[int], Callable[[], str]]:
    calls: list[int] = []

    def action() -> str:
        calls.append(len(calls))
        if len(calls) <= times:
            raise DatabaseUnavailable("connection refused")
        return "done"

    return calls, action


def test_what_works_is_not_waited_for(time: FakeTime) -> None:
    calls, action = away(0)
    assert patient(time)(action) == "done"
    assert (len(calls), time.now) == (1, 0)


def test_it_tries_until_the_database_is_back(time: FakeTime) -> None:
    calls, action = away(30)
    assert patient(time)(action) == "done"
    assert len(calls) == 31
    assert time.now <= 30 * 5


def test_other_errors_are_not_waited_out(time: FakeTime) -> None:
    def action() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        patient(time)(action)
    assert time.now == 0


def test_a_fault_without_end_gives_the_message_back(time: FakeTime) -> None:
    _, action = away(10**9)
    with pytest.raises(GiveBack, match="connection refused"):
        patient(time)(action)
    assert 600 < time.now < 610


def test_a_stop_ends_the_wait_at_once(time: FakeTime) -> None:
    time.stop_at = 20
    _, action = away(10**9)
    with pytest.raises(GiveBack):
        patient(time)(action)
    assert 20 <= time.now < 20.2


def test_a_worker_that_stops_tries_once_and_does_not_wait(time: FakeTime) -> None:
    time.stopping.set()
    calls, action = away(10**9)
    with pytest.raises(GiveBack):
        patient(time)(action)
    assert (len(calls), time.now) == (1, 0)


def test_waits_double_up_to_the_maximum_with_full_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges: list[tuple[float, float]] = []

    def longest(low: float, high: float) -> float:
        ranges.append((low, high))
        return high

    monkeypatch.setattr("random.uniform", longest)
    assert list(islice(backoff(0.25, 5), 8)) == [0.25, 0.5, 1, 2, 4, 5, 5, 5]
    assert {low for low, _ in ranges} == {0}


def test_waits_differ() -> None:
    waits = list(islice(backoff(1, 5), 50))
    assert all(0 <= wait <= 5 for wait in waits)
    assert any(first != second for first, second in pairwise(waits))


def test_stopping_is_seen_across_a_fork() -> None:
    stopping = Stopping()
    child = os.fork()
    if not child:
        os._exit(0 if stopping.wait(20) else 1)
    Timer(0.1, stopping.set).start()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_wait_ends_when_its_time_is_up() -> None:
    start = monotonic()
    assert Stopping().wait(0.05) is False
    assert monotonic() - start >= 0.05
