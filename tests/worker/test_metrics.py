"""What a worker counts, and what a real one tells Prometheus."""

import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter

import pytest
from billiard import Process
from prometheus_client import CollectorRegistry

from local.ports import LOOPBACK, free_ports
from shared.dead import FaultKind
from shared.decide import Prediction
from shared.messages import Document
from shared.revision import microseconds_now
from tests.api.test_metrics import Told
from tests.shared.broker import put_raw
from tests.shared.store.samples import document_id
from tests.stack import Api, Worker, poll, running, settled
from tests.worker.bench import CASES, Bench, document
from worker.metrics import Metrics

CATEGORIES = ("rec.autos", "sci.med", "sci.space")
STAGE = "postroom_stage_duration_seconds"


def opened(children: int = 2) -> tuple[Metrics, CollectorRegistry]:
    metrics, registry = Metrics(), CollectorRegistry()
    metrics.open(CATEGORIES, children)
    registry.register(metrics)
    return metrics, registry


def documents(*ages: float) -> list[Document]:
    now = microseconds_now()
    return [
        {"id": document_id(1), "stamp": now - int(age * 1e6), "accepted_at": "", "content": "x"}
        for age in ages
    ]


def predictions(*confidences: float, category: str | None = "sci.med") -> Sequence[Prediction]:
    return [Prediction(category, each, "1") for each in confidences]


# --- Counting ------------------------------------------------------------------------------------


def test_documents_are_counted_by_outcome() -> None:
    metrics, registry = opened()
    metrics.ingested("ccsf")
    metrics.ingested("c")
    name = "postroom_ingested_documents_total"
    found = {
        outcome: registry.get_sample_value(name, {"outcome": outcome})
        for outcome in ("created", "replaced", "failed", "dead")
    }
    assert found == {"created": 3, "replaced": 1, "failed": 1, "dead": 0}


def test_a_message_is_as_old_as_its_oldest_document() -> None:
    metrics, registry = opened()
    metrics.stored(documents(0.2, 7, 3), "ingest")
    metrics.stored(documents(-60), "ingest")  # a stamp ahead of the clock
    name, queue = "postroom_accepted_to_stored_seconds", {"queue": "ingest"}
    assert registry.get_sample_value(f"{name}_count", queue) == 4
    assert registry.get_sample_value(f"{name}_bucket", {"le": "5.0", **queue}) == 1
    assert registry.get_sample_value(f"{name}_bucket", {"le": "10.0", **queue}) == 4
    assert registry.get_sample_value(f"{name}_sum", queue) == pytest.approx(21, abs=1)
    assert registry.get_sample_value(f"{name}_count", {"queue": "bulk"}) == 0


def test_confidence_is_told_by_category() -> None:
    metrics, registry = opened()
    metrics.classified(predictions(0.1, 0.55, 0.6, 1.0))
    metrics.classified(predictions(0.3, category="sci.space"))
    metrics.classified([Prediction(None, None, "1", {"title": "x"})])
    name, medicine = "postroom_confidence", {"category": "sci.med"}
    buckets = [
        registry.get_sample_value(f"{name}_bucket", {"le": le, **medicine})
        for le in ("0.1", "0.5", "0.6", "0.9", "1.0", "+Inf")
    ]
    assert buckets == [1, 1, 3, 3, 4, 4]
    assert registry.get_sample_value(f"{name}_sum", medicine) == pytest.approx(2.25)
    assert registry.get_sample_value(f"{name}_count", {"category": "rec.autos"}) == 0


def test_what_nobody_expects_breaks_nothing() -> None:
    metrics, registry = opened()
    metrics.classified(predictions(0.5, category="another model's"))
    metrics.stored(documents(1), "a queue of somebody else's")
    metrics.ingested("?")
    metrics.died(FaultKind.RAISED)  # is no death
    values = {sample.value for family in registry.collect() for sample in family.samples}
    assert values == {0}


def test_only_what_succeeds_counts_as_a_stage() -> None:
    metrics, registry = opened()
    with metrics.stage("store"):
        pass
    with pytest.raises(KeyError), metrics.stage("store"):
        raise KeyError
    assert registry.get_sample_value(f"{STAGE}_count", {"stage": "store"}) == 1


def test_without_a_port_nothing_is_counted() -> None:
    metrics = Metrics()
    with metrics.stage("store"):
        metrics.ingested("c")
    metrics.classified(predictions(0.5))
    metrics.stored(documents(1), "ingest")
    metrics.message("done")
    assert list(metrics.collect()) == []


def test_processes_count_side_by_side_and_survive_each_others_ends() -> None:
    """Three children, more than there are parts for, in turns, each killed in the midst of it."""
    metrics, registry = opened(children=2)

    def count() -> None:
        for _ in range(1000):
            metrics.message("done")
        os.kill(os.getpid(), 9)

    for _ in range(2):
        children = [Process(target=count) for _ in range(2)]
        for index, child in enumerate(children):
            child.index = index  # type: ignore[attr-defined]  # a pool sets it
            child.start()
        for _ in range(1000):
            metrics.message("done")
        for child in children:
            child.join()
            assert child.exitcode == -9
    found = registry.get_sample_value("postroom_messages_total", {"verdict": "done"})
    assert found == 2 * 3 * 1000


def test_a_message_of_a_hundred_documents_costs_next_to_nothing() -> None:
    """Less than one percent of the 13 ms that it takes, with room for a machine that is busy."""
    metrics, _ = opened()
    some, found = documents(*[1.0] * 100), predictions(*[0.87] * 100)

    def once() -> float:
        start = perf_counter()
        for stage in ("classify", "store", "message"):
            with metrics.stage(stage):
                pass
        metrics.classified(found)
        metrics.ingested("c" * 100)
        metrics.stored(some, "ingest")
        metrics.message("done")
        return perf_counter() - start

    assert min(once() for _ in range(200)) < 0.13e-3


# --- A real worker -------------------------------------------------------------------------------


def address_of(worker: Worker) -> str:
    """Return where a worker that is to be started will tell its metrics."""
    port = free_ports(1)[0]
    worker.env["WORKER_METRICS_PORT"] = str(port)
    return f"http://{LOOPBACK}:{port}/metrics"


@pytest.mark.rabbitmq
def test_a_worker_with_children_tells_what_they_did_and_who_died(
    tmp_path: Path, database_url: str, broker_url: str, processes: ExitStack
) -> None:
    bench = Bench(tmp_path, database_url, broker_url)
    processes.callback(bench.close)
    url = address_of(bench.worker)
    running(processes, bench.worker)
    told = Told(url)
    assert told.value("postroom_worker_children") == 2
    held = told.labels("postroom_oldest_message_seconds", "queue")
    assert held == {"ingest", "bulk", "classify"}

    for number in range(40):
        bench.send(*(document(document_id(5 * number + at), f"orbit {at}") for at in range(5)))
    bench.wait_for(200)
    created = "postroom_ingested_documents_total"
    poll(lambda: told.grown(created, outcome="created"), lambda found: found == 200, 5)
    assert told.grown("postroom_messages_total", verdict="done") == 40
    for stage in ("classify", "store", "message"):
        assert told.grown(f"{STAGE}_count", stage=stage) == 40
    assert told.grown(f"{STAGE}_count", stage="answer") == 0
    assert told.grown("postroom_accepted_to_stored_seconds_count", queue="ingest") == 200
    categories = told.labels("postroom_confidence_count", "category")
    assert len(categories) == 20
    sure = [told.grown("postroom_confidence_count", category=each) for each in categories]
    assert sum(sure) == 200

    content, head, properties, _ = CASES["no documents"]
    put_raw(broker_url, "ingest", content, headers=head, **properties)
    poll(lambda: told.grown("postroom_messages_total", verdict="dead"), lambda n: n == 1, 20)

    killed = bench.children()
    for child in killed:
        child.kill()
    poll(bench.children, lambda found: len(found) == 2 and not {*found} & {*killed}, 20)
    assert told.grown(created, outcome="created") == 200
    for number in range(40, 50):
        bench.send(document(document_id(5 * number)))
    bench.wait_for(210)
    poll(lambda: told.grown(created, outcome="created"), lambda found: found == 210, 5)


@pytest.mark.rabbitmq
def test_a_successor_gets_the_port_while_orphans_still_work(
    tmp_path: Path, database_url: str, broker_url: str, processes: ExitStack
) -> None:
    """Also a child that was forked after the port was opened has closed it."""
    bench = Bench(tmp_path, database_url, broker_url)
    processes.callback(bench.close)
    url = address_of(bench.worker)
    running(processes, bench.worker)
    killed = bench.children()[0]
    killed.kill()
    poll(bench.children, lambda found: len(found) == 2 and killed not in found, 20)
    port = int(bench.worker.env["WORKER_METRICS_PORT"])
    for child in bench.children():
        listening = [each for each in child.net_connections() if each.laddr.port == port]
        assert not listening
    (main,) = bench.worker.pids()
    os.kill(main, 9)
    poll(lambda: can_bind(port), bool, 5)
    bench.worker.kill()
    bench.worker.start()
    bench.worker.wait_ready()
    assert Told(url).value("postroom_worker_children") == 2


def can_bind(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen()
        except OSError:
            return False
    return True


@pytest.mark.rabbitmq
def test_the_oldest_message_is_seen_while_the_database_is_away(
    tmp_path: Path, database_url: str, broker_url: str, processes: ExitStack
) -> None:
    bench = Bench(tmp_path, database_url, broker_url)
    processes.callback(bench.close)
    bench.worker.env["DATABASE_URL"] = f"postgresql://nobody@{LOOPBACK}:{free_ports(1)[0]}/none"
    url = address_of(bench.worker)
    running(processes, bench.worker)
    told = Told(url)
    assert told.value("postroom_oldest_message_seconds", queue="ingest") == 0
    for number in range(30):
        bench.send(document(document_id(number)))
    age = poll(
        lambda: told.value("postroom_oldest_message_seconds", queue="ingest"),
        lambda found: found is not None and found > 3,
        30,
    )
    assert age is not None
    assert age < 30
    assert told.value("postroom_oldest_message_seconds", queue="bulk") == 0
    assert told.grown("postroom_retries_total", reason="database") > 2


def test_a_single_process_tells_as_well(
    tmp_path: Path, database_url: str, processes: ExitStack
) -> None:
    broker_url = f"spool://{tmp_path / 'spool'}"
    api = Api(tmp_path / "api", database_url, broker_url)
    worker = Worker(tmp_path / "worker", database_url, broker_url)
    url = address_of(worker)
    running(processes, api, worker)
    told = Told(url)
    with api.client() as client:
        assert (
            client.post("/v1/documents/batch", json=[{"content": "orbit"}] * 9).status_code == 202
        )
        settled(client, 9)
        assert client.post("/v1/classify", json={"content": "orbit"}).status_code == 200
    assert told.value("postroom_worker_children") == 1
    assert told.grown("postroom_ingested_documents_total", outcome="created") == 9
    assert told.grown("postroom_accepted_to_stored_seconds_count", queue="ingest") == 9
    poll(lambda: told.grown(f"{STAGE}_count", stage="answer"), lambda found: found == 1, 5)


def test_a_worker_works_without_its_port(
    tmp_path: Path, database_url: str, processes: ExitStack
) -> None:
    """Two of one host that were told the same one."""
    worker = Worker(tmp_path / "worker", database_url, f"spool://{tmp_path / 'spool'}")
    address_of(worker)
    with socket.socket() as taken:
        taken.bind((LOOPBACK, int(worker.env["WORKER_METRICS_PORT"])))
        taken.listen()
        running(processes, worker)
    assert "the port cannot be had" in worker.logged()
