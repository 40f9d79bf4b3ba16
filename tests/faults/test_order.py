"""A wall clock that goes back: the last write that was accepted still wins."""

from pathlib import Path
from uuid import uuid4

import pytest

from tests.deadly import HANG
from tests.faults.batches import batch, happened
from tests.faults.conftest import Case
from tests.faults.site import Site, get
from tests.faults.test_processes import more
from tests.stack import Api
from tests.stream import LONG_PAUSE, PAUSE_SECONDS, Stream, Text

pytestmark = pytest.mark.rabbitmq

BACK = "-5000000"
"""Microseconds."""


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    file = tmp_path / "clock"
    file.write_text("0")
    return file


@pytest.mark.quick
@pytest.mark.fault("clock of the only API process stepped back 5 s")
def test_the_clock_goes_back(site: Site, case: Case, clock: Path) -> None:
    site.add_api("--clock", str(clock))
    site.add_worker()

    def step_back(site: Site, stream: Stream) -> None:
        clock.write_text(BACK)
        more(site, stream, case.documents // 4)

    case.run(site, step_back)


@pytest.mark.fault("a message that comes again after newer versions of its documents")
def test_a_message_is_overtaken(site: Site, case: Case, harm: Path) -> None:
    """Its first delivery runs into the time limit, and meanwhile the newer versions are stored."""
    site.add_api()
    site.add_worker("--deadly", str(harm), "--time-limit", "12")

    def overtake(site: Site, stream: Stream) -> None:
        # One child hangs; the other one shall have little else to do.
        stream.pause = LONG_PAUSE
        before = stream.accepted[-1]
        site.wait(lambda: site.stored(before), 60, "the backlog worked off")
        texts, _ = batch(f"{HANG}-1-times")
        stream.send(texts)
        happened(site, harm, HANG)
        stream.send([Text(each.id, f"newer {number}") for number, each in enumerate(texts)])
        newer = stream.accepted[-1]
        site.wait(lambda: site.stored(newer), 10, "newer versions stored in time")
        happened(site, harm, HANG, times=2)
        stream.pause = PAUSE_SECONDS

    case.run(site, overtake)


@pytest.mark.fault("clock of one API process in two stepped back 5 s")
def test_one_clock_of_two_goes_back(site: Site, case: Case, clock: Path) -> None:
    """A client that reads, then writes, wins: where it has read, or with what it read anywhere."""
    right = site.add_api()
    late = site.add_api("--clock", str(clock))
    site.add_worker()

    def read(api: Api, key: str) -> int:
        found = site.wait(lambda: get(api, f"/v1/documents/{key}"), 30, "stored")
        return int(found["revision"])

    def step_back(site: Site, stream: Stream) -> None:
        clock.write_text(BACK)
        stream.pause = LONG_PAUSE
        ids = [str(uuid4()) for _ in range(20)]
        stream.send([Text(key, f"first version {key}") for key in ids], right.url)
        # The conditional writes come last: they bring the clock that is behind forward.
        for key in ids[:10]:
            read(late, key)
            stream.send([Text(key, f"second version {key}")], late.url)
        for key in ids[10:]:
            stream.replace(Text(key, f"second version {key}"), read(right, key), late.url)
        written.update((key, f"second version {key}") for key in ids)
        stream.pause = PAUSE_SECONDS

    written: dict[str, str] = {}
    case.run(site, step_back)
    contents = dict(
        site.query("SELECT id::text, content FROM documents WHERE id::text = ANY(%s)", [*written])
    )
    assert contents == written
