"""Measure reads of millions of documents: `python -m benchmarks.scale --documents 2000000`.

Makes the documents in a PostgreSQL of its own, starts the API on it, and sends each request many
times, one after the other, over one connection. Figures hold for that machine and hour.
"""

import argparse
import http.client
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http import HTTPStatus
from itertools import cycle, islice, pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

import orjson
import psycopg2

from benchmarks import searches
from benchmarks.archive import Archive
from benchmarks.stack import Program
from local.ports import LOOPBACK, free_ports
from local.postgres import Postgres
from local.server import ServerError, clean_environment
from shared.store.listings import Filter, Listing, Sort

RESULTS: Final = Path(__file__).parent / "results" / "scale.json"
TIMES: Final = 30
WANTED_MS: Final = 100.0
_COMMONEST_MS: Final = 500.0

Query = psycopg2.extensions.cursor


@dataclass(frozen=True)
class Request:
    """A kind of request.

    Attributes:
        name: for people.
        paths: asked one after the other, so that none is measured alone.
        wanted_ms: the median shall not be more.
        status: the answer that is expected.
    """

    name: str
    paths: Sequence[str]
    wanted_ms: float = WANTED_MS
    status: int = HTTPStatus.OK


@dataclass(frozen=True)
class Figure:
    """Milliseconds of one kind of request, as a client sees them."""

    name: str
    median: float
    p95: float
    wanted: float


def requests(archive: Archive, documents: int, database: Query) -> list[Request]:
    """Return all that is measured."""
    return [*_pages(archive, database), *_facets(archive), *_searches(documents, database)]


def _pages(archive: Archive, database: Query) -> Iterator[Request]:
    first = archive.categories[:10]
    yield Request("page", [_list()])
    yield Request("page, 250 documents", [_list(limit=250)])
    for share in (0.1, 0.5, 0.9):
        yield Request(f"page at {share:.0%}", [_at(database, Listing(), share)])
    for sort in (Sort.OLDEST, Sort.LEAST_SURE, Sort.SUREST):
        yield Request(f"sort={sort}", [_list(sort=sort)])
        yield Request(f"sort={sort} at 90%", [_at(database, Listing(sort=sort), 0.9)])
    yield Request("category", [_list(category=each) for each in first])
    deep = [_at(database, Listing(Filter(category=each)), 0.9) for each in first[:3]]
    yield Request("category at 90%", deep)
    yield Request("source, frequent", [_list(source="source-0")])
    yield Request("source, rare", [_list(source="source-49")])
    pairs = [_list(category=each, source="source-40") for each in first]
    yield Request("category and source", pairs)
    yield Request("external_id", [_list(external_id=f"post-{number}") for number in (1, 777, 9999)])
    yield Request("external_id that nobody has", [_list(external_id="post-none")])
    yield Request("status=failed", [_list(status="failed")])
    yield Request("status=failed and category", [_list(status="failed", source="source-3")])
    yield Request("label", [_list(label=each) for each in first])
    yield Request("category_source=human", [_list(category_source="human")])
    human = [_list(category_source="human", category=each) for each in first]
    yield Request("category_source=human and category", human)
    yield Request("category_source=model", [_list(category_source="model")])
    yield Request("model_version, the old one", [_list(model_version="model-1")])
    yield Request("model_version that nobody has", [_list(model_version="model-9")])
    old = [_list(model_version="model-1", category=each) for each in first]
    yield Request("model_version, the old one, and category", old)
    for limit in (0.5, 0.1, 0.01):
        yield Request(f"confidence_below={limit}", [_list(confidence_below=limit)])
    unsure = [_list(category=each, sort=Sort.LEAST_SURE) for each in first]
    yield Request("category, sort=confidence", unsure)
    days = [_list(created_after=f"2026-10-{day}T00:00:00Z") for day in (10, 20, 30)]
    yield Request("created_after", days)
    span = {"created_after": "2026-10-10T00:00:00Z", "created_before": "2026-10-11T00:00:00Z"}
    yield Request("a day", [_list(**span)])
    yield Request("a day and category", [_list(**span, category=each) for each in first])
    yield Request("metadata, frequent", [_list(**{"metadata.tags": "tag-3"})])
    yield Request("metadata, one in 27", [_list(**{"metadata.year": 2013})])
    authors = [_list(**{"metadata.author": f"user-{each}"}) for each in (300, 4000, 44_000)]
    yield Request("metadata, rare", authors)
    nobody = _list(**{"metadata.author": "nobody"})
    yield Request("metadata that nobody has", [nobody])
    yield Request("metadata that nobody has, and a day", [f"{nobody}&{urlencode(span)}"])


def _facets(archive: Archive) -> Iterator[Request]:
    yield Request("facets", ["/v1/documents/facets"])
    for name, filters in (
        ("category", [{"category": each} for each in archive.categories[:10]]),
        ("source, rare", [{"source": "source-49"}]),
        ("label", [{"label": each} for each in archive.categories[:10]]),
        ("metadata, one in 27", [{"metadata.year": 2013}]),
    ):
        paths = [f"/v1/documents/facets?{urlencode(each)}" for each in filters]
        yield Request(f"facets, {name}", paths)
    yield Request("categories", ["/v1/categories"])


def _searches(documents: int, database: Query) -> Iterator[Request]:
    kinds = list(searches.words(database, documents))
    for name, words in kinds:
        wanted = _COMMONEST_MS if len(words) == 1 else WANTED_MS
        yield Request(f"search: {name}", [_list(q=each) for each in words], wanted)
    (_, [commonest]), (_, frequent), (_, fewer), *_ = kinds
    pairs = [_list(q=f"{one} {two}") for one, two in pairwise(frequent)]
    yield Request("search: two frequent words", pairs)
    yield Request("search: a phrase", [_list(q=f'"{fewer[0]} {fewer[1]}"')])
    yield Request("search: a category", [_list(q=each, category="sci.space") for each in fewer])
    yield Request("search: commonest, a category", [_list(q=commonest, category="sci.space")])


def _list(**parameters: Any) -> str:
    return f"/v1/documents?{urlencode(parameters)}"


def _at(database: Query, listing: Listing, share: float) -> str:
    """Return the path of a page that begins where `share` of a list has gone by."""
    sort, category = listing.sort, listing.where.category
    column, order = sort.column.key, "DESC" if sort.descending else "ASC"
    where = "label IS NULL AND confidence IS NOT NULL" if sort.by_confidence else "true"
    where += "" if category is None else " AND category = %(category)s"
    database.execute(
        f"SELECT id, {column} FROM documents WHERE {where} ORDER BY {column} {order}, id {order}"
        f" LIMIT 1 OFFSET (SELECT {share} * count(*) FROM documents WHERE {where})",
        {"category": category},
    )
    [[row_id, key]] = database.fetchall()
    cursor = listing.cursor(_Place(UUID(row_id), key, key)).encode()
    filters = {} if category is None else {"category": category}
    return _list(**filters, sort=sort, cursor=cursor)


@dataclass(frozen=True)
class _Place:
    id: UUID
    created_at: Any
    confidence: Any


def measure(port: int, request: Request) -> Figure:
    """Send a request `TIMES` times, after a few for warmth.

    Raises:
        RuntimeError: an answer is not the expected one.
    """
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=60)
    times = []
    for path in islice(cycle(request.paths), TIMES + 3 * len(request.paths)):
        start = time.perf_counter()
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        times.append(1000 * (time.perf_counter() - start))
        if answer.status != request.status:
            raise RuntimeError(f"{path} answered {answer.status}: {body[:500].decode()}")
    connection.close()
    measured = times[3 * len(request.paths) :]
    return Figure(request.name, median(measured), quantiles(measured, n=20)[-1], request.wanted_ms)


@contextmanager
def running(folder: Path, documents: int) -> Iterator[tuple[int, Archive, Query]]:
    """Yield the port of an API with so many documents, what made them, and their database.

    Documents that an earlier run left in `folder` are taken as they are.
    """
    [postgres_port, port] = free_ports(2)
    with Postgres(folder / "postgres", postgres_port) as postgres:
        name = f"archive{documents}"
        made = postgres.has_database(name)
        url = postgres.url_of(name) if made else postgres.create_database(name)
        env = {"DATABASE_URL": url, "BROKER_URL": f"spool://{folder}/spool", "LOG_LEVEL": "INFO"}
        subprocess.run(
            [sys.executable, "-m", "alembic", "-c", "migrations/alembic.ini", "upgrade", "head"],
            env=clean_environment() | env,
            check=True,
        )
        database = psycopg2.connect(url)
        database.autocommit = True
        archive = Archive(documents)
        if not made:
            _timed(f"{documents:,} documents made", lambda: archive.load(database))
            _timed("their index of words", lambda: searches.index(database))
        api_env = env | {"API_PORT": str(port), "API_HOST": LOOPBACK, "ROOT_PATH": ""}
        with Program(folder / "api", ["api"], api_env, f"http://{LOOPBACK}:{port}/readyz"):
            yield port, archive, database.cursor()


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="postroom-scale-") as folder:
        yield Path(folder)


def _timed(what: str, work: Callable[[], None]) -> None:
    start = time.perf_counter()
    work()
    print(f"{what}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


def main() -> None:
    """Make the documents, measure, print a table, write the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--documents", type=int, default=2_000_000)
    parser.add_argument("--only", default="", help="requests whose name has this in it")
    parser.add_argument(
        "--folder", type=Path, help="where the documents stay, for another run; else nowhere"
    )
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the figures go")
    options = parser.parse_args()
    figures = []
    print(f"{'':44}{'median, ms':>12}{'p95, ms':>12}{'wanted':>10}")
    try:
        with (
            _folder(options.folder) as folder,
            running(folder, options.documents) as (port, archive, database),
        ):
            for request in requests(archive, options.documents, database):
                if options.only in request.name:
                    figure = measure(port, request)
                    figures.append(figure)
                    median_, p95 = f"{figure.median:.1f}", f"{figure.p95:.1f}"
                    print(
                        f"{figure.name:44}{median_:>12}{p95:>12}{figure.wanted:>10.0f}", flush=True
                    )
    except ServerError as error:
        sys.exit(f"postroom: {error}")
    result = {
        "documents": options.documents,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "figures": [asdict(each) for each in figures],
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    main()
