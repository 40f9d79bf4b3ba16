import threading
from time import time_ns

from hypothesis import given
from hypothesis import strategies as st

from shared.revision import DAY, EPOCH, Clock, microseconds_now


def test_now_is_in_microseconds_since_the_epoch() -> None:
    before = time_ns() // 1000
    assert before <= microseconds_now() <= time_ns() // 1000
    assert EPOCH.isoformat() == "1970-01-01T00:00:00+00:00"


def test_stamps_are_the_time_where_it_moves_and_grow_where_it_does_not() -> None:
    times = iter([100, 100, 50, 200])
    clock = Clock(lambda: next(times))
    assert [clock.stamp() for _ in range(4)] == [100, 101, 102, 200]


def test_a_stamp_is_above_every_revision_that_was_seen() -> None:
    clock = Clock(lambda: 100)
    clock.observe(150)
    clock.observe(120)
    assert [clock.stamp(), clock.stamp()] == [151, 152]


def test_a_revision_from_more_than_a_day_ahead_is_not_believed() -> None:
    clock = Clock(lambda: 100)
    clock.observe(100 + DAY)
    assert clock.stamp() == 100
    clock.observe(99 + DAY)
    assert clock.stamp() == 100 + DAY


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2 * DAY))))
def test_stamps_only_grow_whatever_the_clock_does(steps: list[tuple[bool, int]]) -> None:
    now = 0
    clock = Clock(lambda: now)
    last = -1
    for seen, value in steps:
        if seen:
            clock.observe(value)
            last = max(last, value) if last < value < now + DAY else last
        else:
            now = value
            stamp = clock.stamp()
            assert stamp > last or last == -1
            assert stamp >= now
            last = stamp


def test_threads_never_share_a_stamp() -> None:
    clock = Clock(lambda: 1)
    stamps: list[int] = []
    threads = [
        threading.Thread(target=lambda: stamps.extend(clock.stamp() for _ in range(500)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(stamps) == list(range(1, 4001))
