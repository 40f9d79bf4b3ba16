"""Starts one of Postroom's programs with something changed that only a test may change.

`python -m tests.faults.program worker --without acks_late`; see `GUARDS` for what can be taken
away, and the options for the rest. The programs themselves know nothing of it.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from tests import deadly


def main() -> None:
    """Change what the command line says, then run the program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("program", choices=("api", "worker"))
    parser.add_argument("--without", action="append", default=[], choices=GUARDS)
    parser.add_argument("--clock", type=Path, help="file with microseconds to add to the clock")
    parser.add_argument("--deadly", type=Path, help="folder that counts what deadly texts do")
    parser.add_argument("--time-limit", type=float, help="hard time limit of a message, seconds")
    parser.add_argument("--fold-after", type=float, help="age of ledger entries to fold, seconds")
    arguments = parser.parse_args()
    sys.argv = [arguments.program]
    if arguments.clock:
        shift_clock(arguments.clock)
    for name in arguments.without:
        program, remove = GUARDS[name]
        if program == arguments.program:
            remove()
    if arguments.program == "api":
        from api.__main__ import main as run  # noqa: PLC0415  # only after what is changed
    else:
        from worker.__main__ import main as run  # noqa: PLC0415  # likewise

        change_worker(arguments)
    run()


def shift_clock(file: Path) -> None:
    """Let the wall clock that stamps go wrong by what `file` says at the moment."""
    from shared import revision  # noqa: PLC0415

    revision.time_ns = lambda: time.time_ns() + 1_000 * int(file.read_text())  # type: ignore[attr-defined]  # a name that it imports


def change_worker(arguments: argparse.Namespace) -> None:
    from shared.store import ledger  # noqa: PLC0415
    from worker.app import app  # noqa: PLC0415

    if arguments.time_limit:
        app.conf.task_time_limit = arguments.time_limit
    if arguments.fold_after:
        ledger.fold.__defaults__ = (arguments.fold_after,)
    if arguments.deadly:
        deadly.allow(arguments.deadly)


# --- What holds the promise, taken away ----------------------------------------------------------


def _setting(**values: Any) -> Callable[[], None]:
    def change() -> None:
        from worker.app import app  # noqa: PLC0415

        app.conf.update(values)

    return change


def _without_revoked_guard() -> None:
    from worker.guard import SafeRequest  # noqa: PLC0415

    del SafeRequest.revoked


def _without_memory_guard() -> None:
    from worker.guard import SafeRequest  # noqa: PLC0415

    del SafeRequest.on_failure


def _without_patience() -> None:
    from worker.patience import Patience  # noqa: PLC0415

    Patience.__call__ = lambda _, action: action()  # type: ignore[assignment,method-assign]


def _without_bisecting() -> None:
    from shared.decide import Prediction  # noqa: PLC0415
    from worker.classify import halving  # noqa: PLC0415
    from worker.classify.model import Model  # noqa: PLC0415

    def classify(model: Model, contents: Sequence[str]) -> Any:
        predictions = model.classify(contents)
        return [Prediction(each.category, each.confidence, model.version) for each in predictions]

    # Tasks are imported when the worker starts, after this.
    halving.classify = classify


def _without_stamps() -> None:
    """The last write to arrive wins, as with a plain upsert."""
    from dataclasses import replace  # noqa: PLC0415

    from shared import decide  # noqa: PLC0415

    put = decide.put

    def put_always(stored: decide.Stored | None, op: decide.Put) -> decide.Decision:
        return put(stored and replace(stored, content_revision=0), op)

    decide.put = put_always


def _without_accounting_once() -> None:
    """A message whose entry is folded already counts again."""
    from sqlalchemy import text  # noqa: PLC0415

    from shared.store import ledger  # noqa: PLC0415

    statement = ledger._RECORD.text
    without = text(statement.replace("AND done @>", "AND false AND done @>"))
    ledger._RECORD = without  # type: ignore[misc]  # final, but for us


def _without_reader() -> None:
    from worker.dead_letters import ReadDeadLetters  # noqa: PLC0415

    ReadDeadLetters.include_if = lambda *_: False  # type: ignore[method-assign]


def _without_careful_mode() -> None:
    from worker import careful  # noqa: PLC0415

    careful.CAREFUL_AFTER = 1_000  # type: ignore[attr-defined]  # which it imports


def _transport(**values: Any) -> Callable[[], None]:
    """Change an option of the publisher's transport; `...` takes it away."""

    def change() -> None:
        from shared import queue  # noqa: PLC0415

        confirmed = queue._confirmed

        def changed(broker_url: str) -> dict[str, Any]:
            options = confirmed(broker_url) | values
            return {name: value for name, value in options.items() if value is not ...}

        queue._confirmed = changed

    return change


def _without_clock() -> None:
    """Stamps are what the wall clock says, as a database's `now()` would be."""
    from shared.revision import Clock  # noqa: PLC0415

    Clock.stamp = lambda self: self._now()  # type: ignore[method-assign]


def _without_observing() -> None:
    from shared.revision import Clock  # noqa: PLC0415

    Clock.observe = lambda *_: None  # type: ignore[method-assign]


GUARDS: Final[dict[str, tuple[str, Callable[[], None]]]] = {
    "acks_late": ("worker", _setting(task_acks_late=False)),
    "reject_on_worker_lost": ("worker", _setting(task_reject_on_worker_lost=False)),
    "reject_on_failure": ("worker", _setting(task_acks_on_failure_or_timeout=True)),
    "safe_consumer": ("worker", _setting(worker_consumer="celery.worker.consumer:Consumer")),
    "heartbeat": ("worker", _setting(broker_heartbeat=0)),
    "revoked": ("worker", _without_revoked_guard),
    "memory_error": ("worker", _without_memory_guard),
    "patience": ("worker", _without_patience),
    "stamps": ("worker", _without_stamps),
    "accounting_once": ("worker", _without_accounting_once),
    "reader": ("worker", _without_reader),
    "careful": ("worker", _without_careful_mode),
    "bisecting": ("worker", _without_bisecting),
    "confirm_publish": ("api", _transport(confirm_publish=False)),
    "on_blocked": ("api", _transport(on_blocked=...)),
    "socket_timeouts": ("api", _transport(read_timeout=..., write_timeout=...)),
    "clock": ("api", _without_clock),
    "observing": ("api", _without_observing),
}
"""Name: which program has it, and what removes it."""


if __name__ == "__main__":
    main()
