"""The matrix's table: as text, and as it stands in the documentation between two marks."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.faults.verdict import Verdict

BEGIN: Final = "<!-- fault matrix: written by `make faults` -->"
END: Final = "<!-- end of the fault matrix -->"

_HEAD: Final = (
    "fault", "accepted", "documents", "lost", "wrong version", "duplicated", "dead",
    "refused requests", "unexpected answers", "restarts", "recovered after s", "drained after s",
    "ledger", "verdict",
)  # fmt: skip


def render(rows: Mapping[str, Verdict]) -> str:
    """Return the table in Markdown."""
    lines = [_HEAD, ("---",) * len(_HEAD), *(_cells(name, row) for name, row in rows.items())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(name: str, row: Verdict) -> tuple[str, ...]:
    numbers = (
        row.accepted, row.stored, row.lost, row.wrong, row.duplicated, row.dead, row.refused,
        row.unexpected, row.restarts,
    )  # fmt: skip
    verdict = "; ".join([*(row.faults() or ["kept"]), *row.remarks])
    times = (f"{row.recovery:.1f}", f"{row.drained:.1f}")
    return (name, *(f"{n:,}" for n in numbers), *times, "even" if row.even else "uneven", verdict)


def write(file: Path, rows: Mapping[str, Verdict]) -> None:
    """Put rows into a file's table: those of the same name are replaced, others stay."""
    content = file.read_text()
    before, rest = content.split(BEGIN)
    old, after = rest.split(END)
    fresh = render(rows).splitlines()
    names = {_name(line) for line in fresh}
    kept = [line for line in old.strip().splitlines()[2:] if _name(line) not in names]
    lines = [*fresh[:2], *sorted([*kept, *fresh[2:]])]
    file.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n" + END + after)


def _name(line: str) -> str:
    found = re.match(r"\| (.*?) \|", line)
    return found.group(1) if found else ""
