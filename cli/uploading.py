"""`postroom import`: sends a file, goes on after a cut, follows it until it is processed."""

import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, Final

import httpx2
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from cli.client import Api, Found, Refused, pause, shown

PATH: Final = "/v1/imports"
FORMATS: Final = {
    "ndjson": "application/x-ndjson",
    "json": "application/json",
    "csv": "text/csv",
}
SUFFIXES: Final = {".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "json", ".csv": "csv"}

_CHUNK: Final = 64 << 10
_ATTEMPTS: Final = 20
_MAX_PAUSE: Final = 15.0
_SHOWN_REJECTS: Final = 20
_PASSING: Final = frozenset({408, 409, 429, 500, 502, 503, 504})
"""Answers after which sending again may help; 409 only if it says when."""


@dataclass(frozen=True)
class Source:
    """What is sent, and how: `path` is None for standard input, which is sent once."""

    path: Path | None
    format: str
    packed: bool
    key: str | None
    params: dict[str, str]

    @property
    def size(self) -> int | None:
        """Bytes, as far as is known."""
        return None if self.path is None else self.path.stat().st_size

    def headers(self) -> dict[str, str]:
        """Return what the request says of its body."""
        headers = {"Content-Type": FORMATS[self.format]}
        if self.packed:
            headers["Content-Encoding"] = "gzip"
        if self.key is not None:
            headers["Idempotency-Key"] = self.key
        if self.size is not None:
            headers["Content-Length"] = str(self.size)
        return headers

    def open(self) -> BinaryIO:
        """Open it at its start."""
        return sys.stdin.buffer if self.path is None else self.path.open("rb")


def stable_key(path: Path) -> str:
    """Return a key that a file keeps for as long as it is not changed."""
    about = path.stat()
    text = f"{path.resolve()}\0{about.st_size}\0{about.st_mtime_ns}"
    return f"{path.name[:100]}-{blake2b(text.encode(), digest_size=12).hexdigest()}".encode(
        "ascii", "replace"
    ).decode()


def send(api: Api, source: Source, console: Console) -> Found:
    """Send a body until all of it is safe; return the import.

    Raises:
        Refused: sending it again would not help.
        httpx2.TransportError: the API did not answer for too long.
    """
    if source.key is not None and (known := _known(api, source.key)) is not None:
        if known["status"] in {"processing", "done"}:
            console.print("This file was imported before: nothing is sent.")
            return known
        if known["accepted"]:
            console.print(f"Going on after {known['accepted']:,} documents.")
    with _bar(console, DownloadColumn(), TransferSpeedColumn()) as bar:
        task = bar.add_task("sending", total=source.size)
        return _Attempts(api, source, console).send(lambda sent: bar.update(task, completed=sent))


class _Attempts:
    """Sends again and again, as long as it helps."""

    def __init__(self, api: Api, source: Source, console: Console) -> None:
        self._api = api
        self._source = source
        self._console = console
        self._left = _ATTEMPTS
        self._accepted = 0

    def send(self, told: Callable[[int], None]) -> Found:
        while True:
            try:
                with self._source.open() as file:
                    return self._api.upload(
                        PATH, _chunks(file, told), self._source.headers(), self._source.params
                    )
            except Refused as error:
                passing = error.status in _PASSING
                if not passing or (error.status == 409 and error.retry_after is None):  # noqa: PLR2004  # Conflict
                    raise
                self._wait(error, error.retry_after)
            except httpx2.TransportError as error:
                self._wait(error, None)

    def _wait(self, error: Exception, seconds: int | None) -> None:
        """Wait before the next attempt; raise `error` if there shall be none."""
        self._left -= 1
        accepted = self._so_far()
        if accepted > self._accepted:
            self._accepted, self._left = accepted, _ATTEMPTS
        if self._source.path is None or not self._left:
            raise error
        self._console.print(f"Interrupted: {shown(error)}", markup=False)
        pause(seconds or min(_MAX_PAUSE, 0.5 * 2 ** (_ATTEMPTS - self._left - 1)))

    def _so_far(self) -> int:
        try:
            known = _known(self._api, self._source.key or "")
        except (Refused, httpx2.TransportError):
            return 0
        return int(known["accepted"]) if known else 0


def follow(api: Api, found: Found, console: Console) -> Found:
    """Show how an import's documents are processed, until all are; return the import."""
    with _bar(console, MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("processing", total=found["accepted"])
        while True:
            bar.update(task, completed=found["accepted"] - found["in_flight"])
            if found["status"] != "processing":
                return found
            pause(0.5)
            found = api.get(f"{PATH}/{found['id']}")


def show(api: Api, found: Found, console: Console) -> None:
    """Show what became of an import, and its first rejects."""
    names = ("accepted", "rejected", "stored", "unchanged", "superseded", "failed", "dead")
    counts = ", ".join(f"{found[name]:,} {name}" for name in names if found[name])
    console.print(f"Import {found['id']}: {counts or 'nothing'}.", highlight=False)
    if not found["rejected"]:
        return
    page = api.get(f"{PATH}/{found['id']}/rejects", limit=_SHOWN_REJECTS)
    table = Table("line", "reason", "original", title="rejected")
    for each in page["data"]:
        reasons = "; ".join(f"{one['pointer']} {one['detail']}".strip() for one in each["errors"])
        original = each["original"] if each["original"] is not None else "(not UTF-8)"
        table.add_row(str(each["line"]), reasons, _short(original))
    console.print(table, markup=False)
    if page["has_more"]:
        console.print(f"… and {found['rejected'] - len(page['data']):,} more.")


def save_rejects(api: Api, found: Found, file: Path) -> None:
    """Write the rejected records to a file, to be corrected and imported."""
    with file.open("wb") as opened:
        for chunk in api.download(f"{PATH}/{found['id']}/rejects", [("format", "original")]):
            opened.write(chunk)


def _known(api: Api, key: str) -> Found | None:
    data = api.get(PATH, idempotency_key=key)["data"]
    return dict(data[0]) if data else None


def _chunks(file: BinaryIO, told: Callable[[int], None]) -> Iterator[bytes]:
    sent = 0
    read = file.read1 if isinstance(file, io.BufferedReader) else file.read
    while chunk := read(_CHUNK):
        yield chunk
        sent += len(chunk)
        told(sent)


def _bar(
    console: Console,
    *columns: DownloadColumn | MofNCompleteColumn | TransferSpeedColumn | TimeRemainingColumn,
) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        *columns,
        console=console,
    )


def _short(text: str) -> str:
    line = text.replace("\n", "⏎")
    return line if len(line) <= 60 else line[:59] + "…"  # noqa: PLR2004  # fits a terminal
