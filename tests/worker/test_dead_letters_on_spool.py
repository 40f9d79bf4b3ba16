"""Dead letters where a worker is one process, and a death ends it."""

from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

from sqlalchemy import text

import shared.spool  # noqa: F401  # registers the transport
from tests.deadly import KILL
from tests.shared.broker import put_raw
from tests.stack import poll, processes, running
from tests.worker.bench import Bench, DeadlyWorker, body, document, headers

__all__ = ["processes"]


def test_the_culprit_is_the_one_dead_letter(
    database_url: str, tmp_path: Path, processes: ExitStack
) -> None:
    broker_url = f"spool://{tmp_path / 'spool'}"
    bench = Bench(tmp_path, database_url, broker_url, DeadlyWorker)
    processes.callback(bench.close)
    running(processes, bench.worker)
    put_raw(broker_url, "ingest", b"no JSON", headers=headers(1))
    poll(lambda: len(bench.letters()), lambda found: found == 1, 30)

    documents = [document(str(uuid4()), f"a text {number}") for number in range(5)]
    documents[3]["content"] = KILL
    head = headers(2, documents=5, through=5)
    put_raw(broker_url, "ingest", body(*documents), headers=head)
    deaths = 0

    def stored() -> int:
        nonlocal deaths
        if bench.worker._ended():  # what `make run` does
            deaths += 1
            bench.worker.kill()
            bench.worker.start()
        with bench.database.transaction() as session:
            return session.scalar(text("SELECT count(*) FROM documents")) or 0

    poll(stored, lambda found: found == 4, 120)
    assert deaths == 4
    (letter,) = bench.letters(reason="child_killed")
    assert (letter["position"], letter["documents"]) == (3, 1)
    totals = bench.totals()
    assert (totals.stored, totals.dead, totals.in_flight) == (4, 2, 0)
