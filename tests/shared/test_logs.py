import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from shared.logs import Failing, OncePerEpisode, configure_logs


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_every_library_writes_the_same_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("INFO", "worker")
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        structlog.get_logger("ours").info("message ingested", documents=3)
        logging.getLogger("theirs").warning("%s is away", "broker")
    ours, theirs = lines(capsys)
    timestamps = [line.pop("timestamp") for line in (ours, theirs)]
    assert all(stamp.endswith("Z") for stamp in timestamps)
    common = {"program": "worker", "request_id": "r-1"}
    assert ours == common | {
        "event": "message ingested", "documents": 3, "level": "info", "logger": "ours"
    }  # fmt: skip
    assert theirs == common | {"event": "broker is away", "level": "warning", "logger": "theirs"}


def test_others_may_add_a_reason_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("INFO", "worker")
    extra = {"reason": "NotFound", "data": "what a document says"}
    logging.getLogger("theirs").warning("no remote control", extra=extra)
    (line,) = lines(capsys)
    assert line["reason"] == "NotFound"
    assert "document" not in str(line)


def test_less_severe_lines_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("WARNING", "api")
    structlog.get_logger("ours").info("no")
    logging.getLogger("theirs").info("no")
    structlog.get_logger("ours").error("yes")
    assert [line["event"] for line in lines(capsys)] == ["yes"]


def test_an_exception_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("INFO", "api")
    try:
        int("two\nlines")
    except ValueError:
        structlog.get_logger("ours").exception("failed")
    (line,) = lines(capsys)
    assert r"ValueError: invalid literal for int() with base 10: 'two\nlines'" in line["exception"]


def test_configuring_again_writes_every_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("INFO", "api")
    configure_logs("INFO", "api")
    logging.getLogger("theirs").info("once")
    assert len(lines(capsys)) == 1


def test_what_fails_again_and_again_is_said_once_and_once_that_it_succeeds() -> None:
    logger = structlog.get_logger()
    work = Failing(logger, "fails", "succeeds")
    with structlog.testing.capture_logs() as logs:
        work.succeeded()
        for reason in ("first", "second", "third"):
            work.failed(reason, work="x")
            assert work.failing
        for _ in range(3):
            work.succeeded(work="x")
        work.failed("fourth")
    assert [(each["event"], each.get("reason"), each.get("failures")) for each in logs] == [
        ("fails", "first", None),
        ("succeeds", None, 3),
        ("fails", "fourth", None),
    ]


def test_a_line_that_is_repeated_passes_once_an_episode() -> None:
    time = 1_000.0
    once = OncePerEpisode(lambda: time)

    def passes(template: str, *values: object) -> bool:
        return once.filter(logging.LogRecord("x", logging.ERROR, "", 1, template, values, None))

    assert passes("away: %s", 1)
    for _ in range(10):
        time += 30
        assert not passes("away: %s", 2)
    assert passes("back")
    time += 61
    assert passes("away: %s", 3)
