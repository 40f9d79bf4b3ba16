"""Time `GET /v1/stats` after a year of use: `python -m benchmarks.stats`.

An API on a PostgreSQL of its own, whose statistics are made by SQL: every minute, hour and day that
is kept, in 20 categories, each with failures now and then; a ledger that has not been folded for a
minute, of single documents or of batches. No documents: the answer reads none, however many.
Where the machine has other work, processor time, of API and PostgreSQL, tells more than the clock.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path
from statistics import median
from typing import Final

import psycopg2

from benchmarks.stack import Program, environment
from local.ports import LOOPBACK, free_ports
from local.postgres import Postgres
from local.server import Server, clean_environment, family, wait_until
from shared.store.stats import KEPT, STEP

CATEGORIES: Final = 20
SOURCES: Final = 50
WANTED_MS: Final = 50

_FILL: Final = """
    INSERT INTO stats (span, at, category, outcome, n)
    SELECT %(span)s, at, CASE c WHEN 0 THEN '' ELSE 'category.' || c END, outcome, 100 + c
    FROM generate_series(date_trunc(%(span)s, now() - %(kept)s, 'UTC'), now(), %(step)s) AS at,
        generate_series(0, %(categories)s) AS c,
        LATERAL (VALUES ('stored'), ('failed'), ('unchanged')) AS o(outcome)
    WHERE outcome = 'stored' OR c = 0
"""

_COUNTS: Final = """
    INSERT INTO counts (kind, key, n)
    SELECT 'category', 'category.' || c, 250000 FROM generate_series(1, %(categories)s) AS c
    UNION ALL SELECT 'source', 'source.' || s, 100000 FROM generate_series(1, %(sources)s) AS s
    UNION ALL VALUES ('status', 'stored', 4990000), ('status', 'failed', 10000)
"""

_LEDGER: Final = """
    INSERT INTO ledger (producer_id, seq, documents, through, stored, unchanged, superseded,
        refused, failed, dead, outcomes, deltas, categories, committed_at)
    SELECT '019e0c5e-7d2a-7b32-9a51-3f6f0c2b9d10', m, %(each)s, m * %(each)s, %(each)s, 0, 0, 0, 0,
        0, repeat('c', %(each)s), CAST(format('{"category": {%%1$s}, "source": {"source.1": %%2$s},
            "status": {"stored": %%2$s}}', by_category.deltas, %(each)s) AS jsonb),
        CAST(format('{%%s}', by_category.stored) AS jsonb),
        clock_timestamp() - m * interval '60 s' / %(messages)s
    FROM generate_series(1, %(messages)s) AS m, LATERAL (
        SELECT string_agg(format('"category.%%s": %%s', c, n), ', ') AS deltas,
            string_agg(format('"category.%%s": {"stored": %%s}', c, n), ', ') AS stored
        FROM (SELECT 1 + (m + d) %% %(categories)s AS c, count(*) AS n
            FROM generate_series(1, %(each)s) AS d GROUP BY 1) AS counted) AS by_category
"""

_QUESTIONS: Final[tuple[dict[str, str], ...]] = (
    {},
    {"interval": "minute", "from": "1439 minutes"},
    {"interval": "minute", "from": "399 minutes", "by": "category"},
    {"interval": "minute", "from": "1439 minutes", "category": "category.7"},
    {"interval": "hour", "from": "1439 hours"},
    {"interval": "hour", "from": "168 hours", "by": "category"},
    {"interval": "day", "from": "365 days"},
    {"interval": "day", "from": "365 days", "by": "category"},
)


def main() -> None:
    """Make the tables, ask, print a line a question."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stats")
    parser.add_argument("--rounds", type=int, default=50)
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="postroom-") as name,
        Postgres(Path(name) / "postgres", free_ports(1)[0]) as postgres,
    ):
        url = postgres.create_database("stats")
        _migrate(url)
        print(f"{_fill(url):,} rows of statistics\n")
        print("question | bytes | median ms | least ms | processor ms | ledger")
        with _api(Path(name), url) as api:
            wait_until(api.ready, 30)
            for messages, each in ((0, 1), (1_200, 200), (30_000, 1)):
                _fill_ledger(url, messages, each)
                for question in _QUESTIONS:
                    before = _cpu_seconds(api, postgres)
                    measured = _measure(api.url, question, args.rounds)
                    spent = (_cpu_seconds(api, postgres) - before) / args.rounds
                    print(f"{measured} | {spent * 1000:.0f} | {messages:,} x {each}", flush=True)


def _migrate(url: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "alembic", "-c", "migrations/alembic.ini", "upgrade", "head"],
        env=clean_environment() | {"DATABASE_URL": url},
        check=True,
    )


def _fill(url: str) -> int:
    values = {"categories": CATEGORIES, "sources": SOURCES}
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        for span, step in STEP.items():
            kept = KEPT.get(span, 365 * STEP["day"])
            cursor.execute(_FILL, {**values, "span": span, "step": step, "kept": kept})
        cursor.execute(_COUNTS, values)
        cursor.execute("ANALYZE")
        cursor.execute("SELECT count(*) FROM stats")
        [(rows,)] = cursor.fetchall()
    return int(rows)


def _fill_ledger(url: str, messages: int, each: int) -> None:
    values = {"categories": CATEGORIES, "messages": messages, "each": each}
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("TRUNCATE ledger")
        cursor.execute(_LEDGER, values)
        cursor.execute("ANALYZE ledger")


def _api(folder: Path, database_url: str) -> Program:
    [port] = free_ports(1)
    url = f"http://{LOOPBACK}:{port}"
    env = environment(database_url, f"spool://{folder}/spool")
    env |= {"API_PORT": str(port), "API_HOST": LOOPBACK, "ROOT_PATH": ""}
    return Program(folder / "api", ["api"], env, f"{url}/readyz")


def _cpu_seconds(*servers: Server) -> float:
    pids = [pid for server in servers for pid in server.pids()]
    times = [each.cpu_times() for pid in pids for each in family(pid)]
    return sum(each.user + each.system for each in times)


def _measure(ready_url: str, question: dict[str, str], rounds: int) -> str:
    parameters = dict(question)
    if "from" in parameters:
        n, unit = parameters["from"].split()
        seconds = int(n) * STEP[unit.rstrip("s")].total_seconds()  # type: ignore[index]  # a unit of ours
        start = time.gmtime(time.time() - seconds)
        parameters["from"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", start)
    url = f"{ready_url.removesuffix('/readyz')}/v1/stats?{urllib.parse.urlencode(parameters)}"
    times, size = [], 0
    for _ in range(rounds):
        start_at = time.perf_counter()
        with urllib.request.urlopen(url, timeout=10) as answer:
            size = len(answer.read())
        times.append((time.perf_counter() - start_at) * 1000)
    shown = " ".join(f"{key}={value}" for key, value in question.items()) or "nothing asked"
    late = "" if median(times) <= WANTED_MS else f" > {WANTED_MS}"
    return f"{shown} | {size:,} | {median(times):.1f}{late} | {min(times):.1f}"


if __name__ == "__main__":
    main()
