"""Every query of dashboards and alerts, asked of a real Prometheus that has seen real programs."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from local.ports import LOOPBACK, free_ports
from tests.observe.conftest import OBSERVE, Prometheus
from tests.observe.test_rules import alerts
from tests.stack import Api, Worker, poll, running, settled

DASHBOARDS = sorted((OBSERVE / "grafana" / "dashboards").glob("*.json"))
PANELS: list[dict[str, Any]] = [
    panel for file in DASHBOARDS for panel in json.loads(file.read_text())["panels"]
]
QUERIES = [
    (panel["title"], target["expr"]) for panel in PANELS for target in panel.get("targets", ())
]


@dataclass(frozen=True)
class Seen:
    """Programs, one of each, that a Prometheus has seen at work."""

    prometheus: Prometheus
    api: Api
    worker: Worker
    client: httpx2.Client


@pytest.fixture(scope="module")
def seen(
    tmp_path_factory: pytest.TempPathFactory,
    module_database_url: str,
    module_broker_url: str,
    prometheus_executable: Path,
) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("observe")
    port = str(free_ports(1)[0])
    api = Api(folder / "api", module_database_url, module_broker_url)
    worker = Worker(
        folder / "worker",
        module_database_url,
        module_broker_url,
        WORKER_CONCURRENCY="2",
        WORKER_METRICS_PORT=port,
    )
    targets = {"api": f"{LOOPBACK}:{api.port}", "worker": f"{LOOPBACK}:{port}"}
    prometheus = Prometheus(folder / "prometheus", prometheus_executable, targets)
    with ExitStack() as stack:
        running(stack, api, worker, prometheus)
        client = stack.enter_context(api.client())
        poll(lambda: client.get("/readyz").status_code, lambda status: status == 200, seconds=15)
        poll(lambda: prometheus.value("sum(up)"), lambda found: found == [2], 20)
        for round_ in range(2):  # what comes into being between two looks has not grown yet
            work(client)
            settled(client, 26 * (round_ + 1))
            shown = f"max(postroom_accepted_documents_total) == {26 * (round_ + 1)}"
            poll(partial(prometheus.value, shown), bool, 20)
        yield Seen(prometheus, api, worker, client)


def work(client: httpx2.Client) -> None:
    """Do some of everything: 26 documents are accepted, others are refused."""
    for number in range(6):
        document = {"content": f"The shuttle {number} reaches its orbit.", "source": "observe"}
        assert client.post("/v1/documents", json=document).status_code == 202
    batch = [{"content": f"The patient {number} takes a pill."} for number in range(20)]
    assert client.post("/v1/documents/batch", json=batch).status_code == 202
    assert client.post("/v1/documents", json={"content": ""}).status_code == 422
    assert client.post("/v1/classify", json={"content": "orbit"}).status_code == 200


@pytest.mark.prometheus
@pytest.mark.rabbitmq
@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_each_panel_shows_something(seen: Seen, title: str, query: str) -> None:
    asked = query.replace("$__rate_interval", "1m")
    assert "$" not in asked
    found = poll(lambda: seen.prometheus.value(asked), bool, 20)
    assert all(value >= 0 or value != value for value in found)  # noqa: PLR0124  # NaN is 0 / 0


@pytest.mark.prometheus
@pytest.mark.rabbitmq
def test_the_figures_are_those_of_the_account(seen: Seen) -> None:
    account = seen.client.get("/v1/ledger").json()
    for query in (
        "sum(postroom_published_documents_total)",
        "sum(postroom_ingested_documents_total)",
        "sum(postroom_accepted_to_stored_seconds_count)",
        "max(postroom_accepted_documents_total)",
        "sum(postroom_message_documents_sum)",
    ):
        # Prometheus asks each program at a moment of its own.
        shows = partial(seen.prometheus.value, query)
        poll(shows, lambda found: found == [account["accepted"]], 20)
    assert seen.prometheus.value("sum(postroom_rejected_documents_total)") == [2]
    assert seen.prometheus.value("max(postroom_unaccounted_documents)") == [0]


@pytest.mark.prometheus
@pytest.mark.rabbitmq
def test_whatever_is_asked_for_is_told(seen: Seen) -> None:
    """An alert on a metric that nobody tells would be silent for ever."""
    told = set(seen.prometheus.ask("label/__name__/values"))
    queries = [query for _, query in QUERIES] + [rule["expr"] for rule in alerts()]
    asked = {name for query in queries for name in re.findall(r"\b(?:postroom|process)_\w+", query)}
    assert len(asked) > 20
    assert asked <= told


@pytest.mark.prometheus
@pytest.mark.rabbitmq
def test_the_alerts_are_evaluated_and_one_of_them_notices(seen: Seen) -> None:
    def rules() -> dict[str, dict[str, Any]]:
        groups = seen.prometheus.ask("rules")["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    names = {rule["alert"] for rule in alerts()}
    found = poll(rules, lambda found: all(each["health"] == "ok" for each in found.values()), 20)
    assert found.keys() == names
    # There is one worker, which maintains as well; so nobody is called `maintenance` here.
    awake = {name for name, rule in found.items() if rule["state"] != "inactive"}
    assert awake == {"MaintenanceAbsent"}
    seen.worker.stop()
    poll(rules, lambda found: found["WorkerAbsent"]["state"] == "pending", 20)


def test_grafana_can_load_the_dashboards() -> None:
    """As far as that can be told without one: ids, places, and the data source."""
    provisioning = OBSERVE / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert DASHBOARDS
    for file in DASHBOARDS:
        dashboard = json.loads(file.read_text())
        assert (dashboard["uid"], bool(dashboard["title"])) == (file.stem, True)
        panels = dashboard["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        taken = [place for panel in panels for place in places(panel["gridPos"])]
        assert len(set(taken)) == len(taken)
        for panel in panels:
            if panel["type"] != "row":
                assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}
                assert panel["targets"]
                assert len({each["refId"] for each in panel["targets"]}) == len(panel["targets"])


def places(grid: dict[str, int]) -> list[tuple[int, int]]:
    assert grid["x"] + grid["w"] <= 24
    across = range(grid["x"], grid["x"] + grid["w"])
    return [(x, y) for x in across for y in range(grid["y"], grid["y"] + grid["h"])]
