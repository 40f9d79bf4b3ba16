"""A RabbitMQ cluster of three nodes, of which one at a time is away."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from local.postgres import Postgres
from tests.conftest import fresh_name
from tests.faults.broker import Cluster, need_rabbitmq
from tests.faults.conftest import TEMPLATE, Case
from tests.faults.site import Site
from tests.faults.test_processes import more
from tests.stream import Stream

pytestmark = pytest.mark.rabbitmq


@pytest.fixture
def cluster(server_folder: Path) -> Iterator[Cluster]:
    need_rabbitmq()
    with ExitStack() as stack:
        cluster = Cluster(server_folder / "cluster")
        cluster.start(stack)
        yield cluster


@pytest.mark.fault("cluster of three: leader killed, then a second node restarted")
def test_a_cluster_loses_its_leader(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    mortal_postgres: Postgres,
    cluster: Cluster,
    case: Case,
) -> None:
    name = fresh_name(request)
    mortal_postgres.create_database(name, TEMPLATE)
    with ExitStack() as stack:
        site = Site(
            stack, tmp_path, mortal_postgres, cluster, database=name, vhost=name,
            without=request.config.getoption("--without", default=[]),
        )  # fmt: skip
        site.add_api()
        site.add_worker()

        def lose_nodes(site: Site, stream: Stream) -> None:
            leader = cluster.leader(name, "ingest")
            leader.kill()
            more(site, stream, case.documents // 8)
            leader.start()
            leader.wait_ready(120)
            site.wait(lambda: in_step(cluster, name), 60, "all three in step")
            second = next(node for node in cluster.nodes if node is not leader)
            second.stop()
            more(site, stream, case.documents // 8)
            second.start()
            second.wait_ready(120)

        case.run(site, lose_nodes)


def in_step(cluster: Cluster, vhost: str) -> bool:
    """Say whether every member of the queue is online."""
    queue = cluster.api("GET", f"queues/{vhost}/ingest")
    return sorted(queue["online"]) == sorted(queue["members"]) and len(queue["members"]) == 3
