"""The matrix's table: as text, and as it stands in the documentation between two marks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.faults.verdict import Verdict

BEGIN: Final = "<!-- fault matrix: written by `make faults` -->"
END: Final = "<!-- end of the fault matrix -->"

GUARDS_BEGIN: Final = "<!-- guards: written by `make guards` -->"
GUARDS_END: Final = "<!-- end of the guards -->"

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
    refusals = [f"slowest refusal {row.slowest_refusal:.1f} s"] if row.refused else []
    verdict = "; ".join([*(row.faults() or ["kept"]), *refusals, *row.remarks])
    times = (f"{row.recovery:.1f}", f"{row.drained:.1f}")
    return (name, *(f"{n:,}" for n in numbers), *times, "even" if row.even else "uneven", verdict)


def write(file: Path, rows: Mapping[str, Verdict]) -> None:
    """Put rows into a file's table: those of the same name are replaced, others stay."""
    _replace(file, BEGIN, END, render(rows).splitlines())


def write_guards(file: Path, rows: Mapping[str, tuple[str, str]]) -> None:
    """Likewise the table of guards: for each the fault, and what was said without it."""
    cells = [
        ("without", "fault", "verdict"),
        ("---",) * 3,
        *((name, *row) for name, row in rows.items()),
    ]
    _replace(file, GUARDS_BEGIN, GUARDS_END, [f"| {' | '.join(each)} |" for each in cells])


def only_row(content: str) -> list[str]:
    """Return the cells of the first row in a text's table; [] if there is none."""
    lines = content.split(BEGIN)[1].split(END, maxsplit=1)[0].strip().splitlines()
    return lines[2].strip("| ").split(" | ") if len(lines) > 2 else []


def _replace(file: Path, begin: str, end: str, fresh: Sequence[str]) -> None:
    before, rest = file.read_text().split(begin)
    old, after = rest.split(end)
    names = {_name(line) for line in fresh}
    kept = [line for line in old.strip().splitlines()[2:] if _name(line) not in names]
    lines = [*fresh[:2], *sorted([*kept, *fresh[2:]])]
    file.write_text("\n".join([before + begin, "", *lines, "", end + after]))


def _name(line: str) -> str:
    return line.split(" | ", maxsplit=1)[0]
