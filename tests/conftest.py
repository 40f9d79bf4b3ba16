"""Real servers for the tests: one PostgreSQL and one RabbitMQ per run, fresh names per test."""

import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.install import advice, find_chromium
from local.ports import free_ports
from local.postgres import Postgres
from local.rabbitmq import Ports, RabbitMQ, find_rabbitmq

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = "migrated"
_SLOWEST_FIRST = ("end_to_end", "local", "worker", "faults", "fuzz", "api")
_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Tests of the containers take minutes and an engine, so they are asked for."""
    parser.addoption("--compose", action="store_true", help="test the containers, with Docker")
    parser.addoption("--screenshots", action="store_true", help="renew docs/screenshots/")


def pytest_configure(config: pytest.Config) -> None:
    """End on SIGTERM as on Ctrl-C, so that fixtures stop their servers."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the folders whose tests wait longest go first, so that none is left alone at the end."""

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        return _SLOWEST_FIRST.index(folder) if folder in _SLOWEST_FIRST else len(_SLOWEST_FIRST)

    items.sort(key=place)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly what was not tested, and why."""
    reasons: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        reasons[reason] = reasons.get(reason, 0) + 1
    if reasons:
        terminalreporter.section("NOT TESTED", sep="!", yellow=True, bold=True)
        for reason, count in reasons.items():
            terminalreporter.line(f"{count} tests: {reason.removeprefix('Skipped: ')}", yellow=True)


def fresh_name(request: pytest.FixtureRequest) -> str:
    """Return a name that no test of this run had, and that tells whose it is."""
    return re.sub(r"\W+", "-", f"t{next(_numbers)}-{request.node.name}")[:50].lower().rstrip("-")


def migrate(url: str) -> None:
    """Run the migrations on an empty database, as an operator would."""
    subprocess.run(
        [sys.executable, "-m", "alembic", "-c", "migrations/alembic.ini", "upgrade", "head"],
        env={**os.environ, "DATABASE_URL": url},
        cwd=ROOT,
        check=True,
    )


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """A folder for servers' data that is gone after the run; its path is short."""
    with tempfile.TemporaryDirectory(prefix="postroom-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres(server_folder: Path) -> Iterator[Postgres]:
    """The PostgreSQL of this test run: never stop or kill it, see ``own_postgres``."""
    with Postgres(server_folder / "postgres", free_ports(1)[0]) as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq(server_folder: Path) -> Iterator[RabbitMQ]:
    """The RabbitMQ of this test run: never stop or kill it, see ``own_rabbitmq``."""
    yield from _rabbitmq(server_folder / "rabbitmq")


def _rabbitmq(folder: Path) -> Iterator[RabbitMQ]:
    if not find_rabbitmq():
        pytest.skip(f"there is no RabbitMQ; to get it: {advice('rabbitmq')}")
    with RabbitMQ(folder, Ports(*free_ports(4))) as server:
        yield server
        server.kill()  # its data is not needed any more, and stopping takes it six seconds


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[Postgres]:
    """A running PostgreSQL for one test, to be stopped and killed at will."""
    with Postgres(tmp_path / "postgres", free_ports(1)[0]) as server:
        yield server


@pytest.fixture(scope="session")
def mortal_rabbitmq(server_folder: Path) -> Iterator[RabbitMQ]:
    """A second RabbitMQ, see ``own_rabbitmq``: starting one takes ten seconds on a busy machine."""
    yield from _rabbitmq(server_folder / "mortal-rabbitmq")


@pytest.fixture
def own_rabbitmq(mortal_rabbitmq: RabbitMQ) -> RabbitMQ:
    """A running RabbitMQ, to be stopped and killed at will; other tests have used it before."""
    if not mortal_rabbitmq.pids():
        mortal_rabbitmq.start()
        mortal_rabbitmq.wait_ready()
    return mortal_rabbitmq


@pytest.fixture
def own_broker_url(own_rabbitmq: RabbitMQ, request: pytest.FixtureRequest) -> str:
    """A virtual host without queues on ``own_rabbitmq``."""
    return own_rabbitmq.create_vhost(fresh_name(request))


@pytest.fixture
def empty_database_url(postgres: Postgres, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty database for one test."""
    name = fresh_name(request)
    yield postgres.create_database(name)
    postgres.drop_database(name)


@pytest.fixture(scope="session")
def migrated_template(postgres: Postgres) -> str:
    """The name of a database in which the migrations were run, to be copied."""
    migrate(postgres.create_database(TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database_url(
    postgres: Postgres, migrated_template: str, request: pytest.FixtureRequest
) -> Iterator[str]:
    """A migrated database without rows for one test."""
    name = fresh_name(request)
    yield postgres.create_database(name, migrated_template)
    postgres.drop_database(name)


@pytest.fixture(scope="module")
def module_database_url(
    postgres: Postgres, migrated_template: str, request: pytest.FixtureRequest
) -> Iterator[str]:
    """A migrated database that the tests of one module share."""
    name = fresh_name(request)
    yield postgres.create_database(name, migrated_template)
    postgres.drop_database(name)


# Virtual hosts are never deleted: deleting at-least-once queues in numbers can break every other
# such queue of the node (rabbitmq-server #16652).
@pytest.fixture
def broker_url(rabbitmq: RabbitMQ, request: pytest.FixtureRequest) -> str:
    """A virtual host without queues for one test."""
    return rabbitmq.create_vhost(fresh_name(request))


@pytest.fixture(scope="module")
def module_broker_url(rabbitmq: RabbitMQ, request: pytest.FixtureRequest) -> str:
    """A virtual host that the tests of one module share."""
    return rabbitmq.create_vhost(fresh_name(request))


@pytest.fixture(scope="session")
def newsgroups() -> Path:
    """scikit-learn's data home with the 20 newsgroups in it."""
    beside = ROOT.parent / "shared" / "data" / "scikit_learn_data"
    home = Path(os.environ.get("SCIKIT_LEARN_DATA") or beside)
    if not any(home.glob("20news*")):
        pytest.skip("there are no 20 newsgroups: set SCIKIT_LEARN_DATA to a data home with them")
    return home


@pytest.fixture(scope="session")
def chromium() -> Path:
    """The browser's executable."""
    found = find_chromium()
    if not found:
        pytest.skip(f"there is no Chromium; to get it: {advice('chromium')}")
    return found
