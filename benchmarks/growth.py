"""How Postroom's cost grows: `python -m benchmarks.growth PART…`, `make bench-long`.

Parts, each on servers of its own, in alternating rounds:

- children: a full queue drained by 1, 2 and 4 worker children.
- messages: by messages of 1 to 1,000 documents.
- documents: by documents of 200 B to 200 KB.
- table: into tables of 10⁵ to 10⁷ documents.
- queue: from queues of 10³ to 10⁶ messages of one document of 2 KB.
- disk: what a million documents take, in the database, its log and the broker.
- hour: an hour of steady load; the memory of each process.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any, Final, TypeVar
from uuid import uuid4

import orjson
import psycopg2
from uuid_utils.compat import uuid7

from benchmarks import endurance
from benchmarks.archive import Archive
from benchmarks.load import post_all
from benchmarks.stack import Drained, Program, Site, Stack, beat_of, environment, site
from benchmarks.texts import texts
from local.server import ServerError, wait_until
from shared.account import Account
from shared.messages import INGEST, Document, describe
from shared.queue import QUEUES, celery_app, declare
from shared.revision import Clock

RESULTS: Final = Path(__file__).parent / "results" / "growth.json"
CHILDREN: Final = (1, 2, 4)
MESSAGES: Final = {1: 1_000, 10: 4_000, 100: 10_000, 1_000: 20_000}
"""Documents of a message, and how many are drained."""
BYTES: Final = {200: 10_000, 2_000: 10_000, 20_000: 3_000, 200_000: 400}
"""Bytes of a document, and how many are drained."""
ROWS: Final = (100_000, 1_000_000, 10_000_000)
WAITING: Final = (1_000, 1_000_000)
HOUR: Final = 3_600.0

_MESSAGE: Final = 100
_MESSAGE_BYTES: Final = 2_000_000
_DOCUMENTS: Final = 10_000
_TAKEN: Final = 900
_DISK_DOCUMENTS: Final = 50_000
_POSITION: Final = "SELECT pg_current_wal_insert_lsn()"
_SECONDS: Final = 600.0

SettingT = TypeVar("SettingT")
Figures = dict[str, float]
Rounds = dict[str, list[Drained]]


def children(place: Site, rounds: int) -> Figures:
    """Drain full queues with more and more children."""
    stack, (_, contents) = place.ours(), texts()
    crews = {
        str(count): Program(
            place.folder / f"crew-{count}",
            ["worker"],
            environment(stack.database_url, stack.broker_url) | {"WORKER_CONCURRENCY": str(count)},
        )
        for count in CHILDREN
    }

    def drain(crew: Program) -> Drained:
        _fill(stack, contents, 2 * _DOCUMENTS, _MESSAGE)
        return _emptied(stack, crew, 2 * _DOCUMENTS)

    return _medians("children", _in_turns(crews, drain, rounds))


def messages(place: Site, rounds: int) -> Figures:
    """Drain messages of more and more documents."""
    stack, (_, contents) = place.ours(), texts()

    def drain(kind: tuple[int, int]) -> Drained:
        size, count = kind
        _fill(stack, contents, count, size)
        return _emptied(stack, stack.pair, count)

    sizes = {str(size): (size, count) for size, count in MESSAGES.items()}
    return _medians("messages", _in_turns(sizes, drain, rounds))


def documents(place: Site, rounds: int) -> Figures:
    """Drain larger and larger documents."""
    stack, (_, posts) = place.ours(), texts()

    def drain(kind: tuple[int, int]) -> Drained:
        size, count = kind
        contents = list(islice(_cut(posts, size), min(count, 1_000)))
        _fill(stack, contents, count, min(_MESSAGE, _MESSAGE_BYTES // size))
        return _emptied(stack, stack.pair, count)

    sizes = {str(size): (size, count) for size, count in BYTES.items()}
    return _medians("documents", _in_turns(sizes, drain, rounds))


def table(place: Site, rounds: int) -> Figures:
    """Store new documents in larger and larger tables."""
    _, contents = texts()
    stacks = {str(rows): place.ours(f"rows{rows}") for rows in ROWS}
    for rows, stack in stacks.items():
        print(f"making {int(rows):,} documents", file=sys.stderr, flush=True)
        Archive(int(rows)).load(stack.database)

    def drain(stack: Stack) -> Drained:
        _fill(stack, contents, 2 * _DOCUMENTS, _MESSAGE)
        stack.checkpoint()
        return stack.drain(stack.pair, 2 * _DOCUMENTS)

    return _medians("table", _in_turns(stacks, drain, rounds, warm=True), compare=True)


def queue(place: Site, rounds: int) -> Figures:
    """Drain the same number of messages from longer and longer queues."""
    _, posts = texts()
    contents = list(islice(_cut(posts, 2_000), 1_000))
    stacks = {str(length): place.ours(f"queue{length}") for length in WAITING}
    lengths = {stack.name: int(length) for length, stack in stacks.items()}
    for stack in stacks.values():
        print(f"queueing {lengths[stack.name]:,} messages", file=sys.stderr, flush=True)
        _queue_up(stack, contents, lengths[stack.name])

    def drain(stack: Stack) -> Drained:
        drained = stack.drain(stack.pair, _TAKEN)
        _queue_up(stack, contents, lengths[stack.name] - stack.waiting())
        return drained

    return _medians("queue", _in_turns(stacks, drain, rounds, warm=True), compare=True)


def disk(place: Site, rounds: int) -> Figures:  # noqa: ARG001  # nothing varies
    """Store and index documents; return megabytes per million of them."""
    stack, (_, contents) = place.ours(), texts()
    beat = beat_of(stack, place.folder)
    empty, position = _folder_bytes(place.rabbitmq.folder), _value(stack, _POSITION)
    _fill(stack, contents, _DISK_DOCUMENTS, _MESSAGE)
    found: Figures = {"disk_queue": _folder_bytes(place.rabbitmq.folder) - empty}
    with stack.pair, beat:
        done = "SELECT count(*) >= %s AND NOT EXISTS (SELECT FROM index_queue) FROM document_search"
        if not wait_until(lambda: bool(_value(stack, done, _DISK_DOCUMENTS)), _SECONDS):
            raise ServerError("the documents are not stored and indexed")
    found["disk_log"] = float(_value(stack, f"SELECT ({_POSITION}) - %s::pg_lsn", position))
    with stack.database.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
        cursor.execute(
            "SELECT relname, pg_table_size(relid), pg_indexes_size(relid)"
            " FROM pg_stat_user_tables ORDER BY 1"
        )
        for name, rows, indexes in cursor.fetchall():
            found |= {f"disk_{name}": rows, f"disk_{name}_indexes": indexes}
    return {f"{name}_mb_per_million": size / _DISK_DOCUMENTS for name, size in found.items()}


def hour(place: Site, seconds: float) -> Figures:
    """Keep a stack busy for an hour; return what memory each process has, early and late."""
    _, contents = texts()
    return endurance.measure(place.ours(), place.folder, contents, seconds)


def _in_turns(
    settings: dict[str, SettingT],
    drain: Callable[[SettingT], Drained],
    rounds: int,
    *,
    warm: bool = False,
) -> Rounds:
    """Return what each setting took in each round; a warm-up round does not count."""
    found: Rounds = {name: [] for name in settings}
    for number in range(rounds + warm):
        for name, setting in settings.items():
            drained = drain(setting)
            print(f"{name:>12}: {drained.rate:9,.0f}/s, {drained.cpu_ms:.3f} ms", file=sys.stderr)
            if number >= warm:
                found[name].append(drained)
    return found


def _medians(part: str, found: Rounds, *, compare: bool = False) -> Figures:
    """Return medians as flat keys; to compare, those of each round's costs by the first one's."""
    figures: Figures = {}
    first, *_ = found.values()
    for name, drained in found.items():
        figures[f"{part}_{name}_per_s"] = median(each.rate for each in drained)
        figures[f"{part}_{name}_cpu_ms"] = median(each.cpu_ms for each in drained)
        if compare:
            both = list(zip(drained, first, strict=True))
            figures[f"{part}_{name}_cost"] = median(one.rate / each.rate for each, one in both)
            cpu = median(each.cpu_ms / one.cpu_ms for each, one in both)
            figures[f"{part}_{name}_cpu_cost"] = cpu
    return figures


def _fill(stack: Stack, contents: Sequence[str], count: int, size: int) -> None:
    """Send documents in batches, which are messages of their own; nobody takes them yet."""
    some = [orjson.dumps({"content": each}) for each in contents]
    bodies = cycle(some)
    batches = [b"[" + b",".join(islice(bodies, size)) + b"]" for _ in range(count // size)]
    with stack.api:
        post_all(f"{stack.documents_url}/batch", batches, 4)


def _emptied(stack: Stack, worker: Program, count: int) -> Drained:
    drained = stack.drain(worker, count)
    stack.empty()
    return drained


def _cut(posts: Sequence[str], size: int) -> Iterator[str]:
    """Yield texts of so many characters, ASCII, made of posts one after the other."""
    words = (word for post in cycle(posts) for word in post.encode("ascii", "ignore").split())
    while True:
        text, length = [], 0
        for word in words:
            text.append(word)
            length += len(word) + 1
            if length > size:
                break
        yield b" ".join(text)[:size].decode()


def _queue_up(stack: Stack, contents: Sequence[str], count: int) -> None:
    """Put messages of one document into the queue, without waiting for a confirm of each."""
    app = celery_app(stack.broker_url)
    app.conf.broker_transport_options |= {"confirm_publish": False}
    account, clock, texts_ = Account(uuid4()), Clock(), cycle(contents)
    before = 0
    with app.connection_for_write() as connection:
        declare(connection)
        before = stack.waiting()
        producer = app.amqp.Producer(connection)
        for content in islice(texts_, max(count, 0)):
            envelope = account.number(1)
            document: Document = {
                "id": str(uuid7()),
                "stamp": clock.stamp(),
                "accepted_at": "2026-11-22T00:00:00+00:00",
                "content": content,
            }
            app.send_task(
                INGEST.task,
                kwargs={"documents": [document]},
                producer=producer,
                queue=QUEUES[INGEST.queue],  # type: ignore[arg-type]  # the stubs know names only
                declare=[],
                retry=False,
                argsrepr=describe([document]),
                kwargsrepr="",
                ignore_result=True,
                add_to_parent=False,
                task_id=envelope.task_id,
                headers=envelope.headers(),
                delivery_mode=2,
            )
    if not wait_until(lambda: stack.waiting() >= before + count, _SECONDS):
        raise ServerError(f"{stack.waiting()} of {before + count} messages are queued")


def _value(stack: Stack, sql: str, *values: object) -> Any:
    with stack.database.cursor() as cursor:
        cursor.execute(sql, values)
        [[value]] = cursor.fetchall()
        return value


def _folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


PARTS: Final = {
    "children": children,
    "messages": messages,
    "documents": documents,
    "table": table,
    "queue": queue,
    "disk": disk,
}


def main() -> None:
    """Measure, print, and add the figures to those of earlier runs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, "hour"], default=[*PARTS, "hour"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=HOUR, help="how long the hour is")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the figures go")
    options = parser.parse_args()
    for part in options.parts:
        try:
            with site() as place:
                if part == "hour":
                    found = hour(place, options.seconds)
                else:
                    found = PARTS[part](place, options.rounds)
        except (ServerError, psycopg2.Error) as error:
            sys.exit(f"postroom: {part}: {error}")
        for name, value in found.items():
            print(f"{name:40}{value:>14,.3f}", flush=True)
        _add(options.json, found)


def _add(file: Path, found: Figures) -> None:
    known = orjson.loads(file.read_bytes()) if file.exists() else {}
    known |= {"cores": os.cpu_count()} | found
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(orjson.dumps(known, option=orjson.OPT_INDENT_2) + b"\n")


if __name__ == "__main__":
    main()
