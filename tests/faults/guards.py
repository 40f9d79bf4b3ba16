"""Take each guard away once and see its fault's case fail: `python -m tests.faults.guards`.

What the cases say then goes into the table of docs/reliability.md. It ends with an error if a case
holds without its guard: then the case proves nothing, or the guard guards nothing.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.faults import table
from tests.faults.program import GUARDS

DOCUMENTS: Final = 1_000
PATIENCE: Final = 40
"""Seconds: what is lost is waited for in vain."""

PAIRS: Final = (
    ("acks_late", "test_the_worker_is_killed"),
    ("reject_on_worker_lost", "test_a_child_is_killed"),
    ("reject_on_failure", "test_a_message_takes_too_long"),
    ("memory_error", "test_a_child_runs_out_of_memory"),
    ("revoked", "test_messages_are_revoked"),
    ("safe_consumer", "test_messages_that_cannot_be_worked and undecodable"),
    ("reader", "test_messages_that_cannot_be_worked and unknown_task"),
    ("careful", "test_a_document_kills_its_child"),
    ("bisecting", "test_a_document_cannot_be_classified"),
    ("patience", "test_the_database_is_killed"),
    ("heartbeat", "test_the_line_to_the_broker_goes_silent"),
    ("confirm_publish", "test_the_queue_is_full"),
    ("socket_timeouts", "test_the_backlog_is_at_its_limit"),
    ("on_blocked", "test_the_broker_is_short_of_memory"),
    ("accounting_once", "test_the_line_to_the_broker_goes_silent"),
    ("stamps", "test_a_message_is_overtaken"),
    ("clock", "test_the_clock_goes_back"),
    ("observing", "test_one_clock_of_two_goes_back"),
)
"""A guard and the case that shall fail without it."""


def main() -> None:
    """Run the pairs that the command line names by their guards, or all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("guards", nargs="*", choices=[*GUARDS, []])
    parser.add_argument("--table", type=Path, help="file in which to write the table")
    arguments = parser.parse_args()
    rows = {}
    for guard, case in PAIRS:
        if not arguments.guards or guard in arguments.guards:
            rows[guard] = _run(guard, case)
            print(" | ".join((guard, *rows[guard])), flush=True)  # noqa: T201  # its output
            if arguments.table:
                table.write_guards(arguments.table, rows)
    held = [guard for guard, (_, said) in rows.items() if said.startswith("kept")]
    if held:
        sys.exit(f"kept without its guard: {', '.join(held)}")


def _run(guard: str, case: str) -> tuple[str, str]:
    """Return the fault's name, and what became of the promise without the guard."""
    with tempfile.NamedTemporaryFile("w+", suffix=".md") as file:
        file.write(f"{table.BEGIN}\n{table.END}\n")
        file.flush()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "tests/faults", "--matrix", "-q", "-k", case),
                *(f"--documents={DOCUMENTS}", f"--without={guard}", f"--table={file.name}"),
                f"--patience={PATIENCE}",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        cells = table.only_row(Path(file.name).read_text())
    if not cells:
        sys.exit(f"no case for {guard}: {case}\n{done.stdout}")
    name, said = cells[0], cells[-1]
    if said.startswith("kept") and done.returncode:
        said = next(line for line in done.stdout.splitlines() if line.startswith("E  "))[1:].strip()
    return name, said


if __name__ == "__main__":
    main()
