"""What is lost shows in the ledger, in the metrics and in `verify-ledger`."""

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from local.ports import free_ports
from local.postgres import DATABASE, Postgres
from tests.conftest import ROOT, migrate
from tests.stack import Api, Worker, ledger, poll, running


def accept(client: httpx2.Client, *contents: str) -> str:
    """Send a batch, a message of its own; return its task id."""
    response = client.post("/v1/documents/batch", json=[{"content": each} for each in contents])
    assert response.status_code == 202, response.text
    return str(response.json()["task_id"])


def metrics(client: httpx2.Client) -> dict[str, float]:
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return {
        sample.name + "".join(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def verify(api: Api, **env: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "api.verify_ledger"],
        env={**api.env, **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def account(client: httpx2.Client) -> dict[str, Any]:
    found: dict[str, Any] = ledger(client)
    return found


def check_account(found: dict[str, Any], lost: str) -> str:
    """See that the message `lost` is said to be; return the task id of the one after it."""
    producer, number = lost.rsplit(".", 1)
    (gap,) = found["unaccounted"]["producers"]
    assert gap["producer_id"] == producer
    assert gap["numbers"] == [[int(number), int(number)]] == [[1, 1]]
    assert (gap["state"], gap["messages"], gap["documents"]) == ("alive", 1, 3)
    assert gap["last_mark"]["number"] == 2
    assert found["unaccounted"]["truncated"] is False
    assert found["may_have_promised"]["messages"] == 0
    assert (found["accepted"], found["stored"], found["in_flight"]) == (4, 1, 3)
    return f"{producer}.2"


def check_metrics(client: httpx2.Client) -> None:
    told = poll(lambda: metrics(client), lambda told: "postroom_unaccounted_documents" in told, 5)
    assert told["postroom_unaccounted_documents"] == 3
    assert told["postroom_unaccounted_messages"] == 1
    assert told["postroom_in_flight_documents"] == 3
    assert told["postroom_accepted_documents_total"] == 4
    assert told["postroom_processed_documentsstored"] == 1
    assert told["postroom_dead_letters"] == 0
    assert told["postroom_database_up"] == told["postroom_broker_confirms"] == 1
    assert told["process_resident_memory_bytes"] > 1 << 20


def test_a_message_that_vanishes_from_its_queue_is_found(
    tmp_path: Path, processes: ExitStack
) -> None:
    postgres = Postgres(tmp_path / "postgres", free_ports(1)[0])
    running(processes, postgres)
    migrate(url := postgres.create_database(DATABASE))
    spool = tmp_path / "spool"
    api = Api(tmp_path / "api", url, f"spool://{spool}")
    worker = Worker(tmp_path / "worker", url, f"spool://{spool}")
    running(processes, api)
    client = processes.enter_context(api.client())
    poll(lambda: client.get("/readyz").status_code, lambda status: status == 200, seconds=15)
    assert verify(api) == (0, verify(api)[1])
    assert "Nothing is lost." in verify(api)[1]

    first = accept(client, "one", "two", "three")
    (file,) = (spool / "queues" / "ingest").glob("0*")
    file.unlink()
    second = accept(client, "four")
    waits = poll(lambda: account(client), lambda found: found["obstacle"] is not None, seconds=10)
    assert waits["unaccounted"]["messages"] == 0  # while the second one is there
    running(processes, worker)
    found = poll(
        lambda: account(client), lambda found: found["unaccounted"]["messages"] == 1, seconds=20
    )

    assert second == check_account(found, first)
    check_metrics(client)
    status, text = verify(api)
    assert status == 1
    assert "LOST: 3 documents in 1 messages" in text
    assert f"producer {first.removesuffix('.1')} (alive), 3 documents:\n    numbers 1\n" in text

    api.kill()
    postgres.sql("UPDATE producers SET marked_at = now() - interval '2 minutes'", DATABASE)
    api.start()
    api.wait_ready()
    found = poll(
        lambda: account(client), lambda found: found["unaccounted"]["messages"] == 1, seconds=20
    )
    assert found["unaccounted"]["producers"][0]["state"] == "dead"

    postgres.stop()
    told = poll(lambda: metrics(client), lambda told: not told["postroom_database_up"], 15)
    account_of = ("accepted_documents", "in_flight", "unaccounted", "processed", "dead_letters")
    assert not [name for name in told if any(each in name for each in account_of)]
    assert told["postroom_backlog_limit_messages"] == 1_000_000
    status, text = verify(api)
    assert (status, "the database does not answer" in text) == (2, True)
    status, text = verify(api, DATABASE_URL="")
    assert (status, "DATABASE_URL" in text) == (2, True)


def test_what_a_killed_process_may_have_promised_is_told_apart(
    tmp_path: Path, processes: ExitStack
) -> None:
    """It promises 1, says so, promises 2 to 4 and is killed. 1, 3 and 4 vanish; 4 unseen."""
    postgres = Postgres(tmp_path / "postgres", free_ports(1)[0])
    running(processes, postgres)
    migrate(url := postgres.create_database(DATABASE))
    spool = tmp_path / "spool"
    killed, api = (Api(tmp_path / name, url, f"spool://{spool}") for name in ("killed", "api"))
    running(processes, killed)
    client = processes.enter_context(killed.client())
    poll(lambda: client.get("/readyz").status_code, lambda status: status == 200, seconds=15)
    task_ids = [accept(client, "one")]
    says = "SELECT seq, pending FROM producers"
    poll(lambda: postgres.sql(says, DATABASE).strip(), lambda said: said == "1|[]", seconds=5)
    postgres.stop()  # so that it can say no more
    task_ids += [accept(client, *["two"] * number) for number in (2, 3, 4, 5)]
    killed.kill()
    files = sorted((spool / "queues" / "ingest").glob("0*"))
    for file in (files[0], files[2], files[4]):
        file.unlink()
    postgres.start()
    postgres.wait_ready()
    postgres.sql("UPDATE producers SET marked_at = now() - interval '2 minutes'", DATABASE)

    worker = Worker(tmp_path / "worker", url, f"spool://{spool}")
    running(processes, api, worker)
    other = processes.enter_context(api.client())
    found = poll(
        lambda: account(other),
        lambda found: found["unaccounted"]["messages"] and found["may_have_promised"]["messages"],
        seconds=30,
    )
    producer = task_ids[0].rsplit(".", 1)[0]
    (lost,) = found["unaccounted"]["producers"]
    (unsure,) = found["may_have_promised"]["producers"]
    assert lost["producer_id"] == unsure["producer_id"] == producer
    assert lost["state"] == unsure["state"] == "dead"
    assert (lost["numbers"], lost["documents"]) == ([[1, 1]], 1)
    assert (unsure["numbers"], unsure["documents"]) == ([[3, 3]], 3)
    assert lost["last_mark"]["number"] == 1
    told = poll(lambda: metrics(other), lambda told: told["postroom_unaccounted_documents"] > 0, 5)
    assert told["postroom_may_have_promised_documents"] == unsure["documents"]
