"""Faults: servers that may be killed, the matrix's table, and how much of it is run."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import pytest

from local.ports import free_ports
from local.postgres import Postgres
from local.rabbitmq import RabbitMQ
from tests.conftest import fresh_name, migrate
from tests.faults import table
from tests.faults.broker import container
from tests.faults.site import Site
from tests.faults.verdict import RECOVERY_SECONDS, Verdict, drained, judge, seconds_since
from tests.stream import Stream

DOCUMENTS = 5_000
QUICK_DOCUMENTS = 600
TEMPLATE = "faults"

_rows: dict[str, Verdict] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--matrix", action="store_true", help="all faults, with streams in full size")
    parser.addoption("--documents", type=int, help="accepted documents of a case, at least")
    parser.addoption("--patience", type=float, default=120, help="seconds to drain, at most")
    parser.addoption("--table", type=Path, help="file in which to write the matrix's table")
    parser.addoption("--container", help="image of RabbitMQ to use in place of the installed one")
    parser.addoption("--without", action="append", default=[], help="a guard to take away")
    parser.addoption("--mix-seconds", type=float, default=600, help="length of the random mix")
    parser.addoption("--seed", type=int, default=0, help="of the random mix; 0 makes one")


def is_matrix(config: pytest.Config) -> bool:
    # The options are unknown where pytest was not called with this folder.
    return bool(config.getoption("--matrix", default=False))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes longer than a few seconds, unless the matrix is asked for."""
    if is_matrix(config):
        return
    here = Path(__file__).parent
    slow = [
        each for each in items if here in each.path.parents and not each.get_closest_marker("quick")
    ]
    items[:] = [each for each in items if each not in slow]
    config.hook.pytest_deselected(items=slow)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if not _rows:
        return
    terminalreporter.section("fault matrix")
    terminalreporter.line(table.render(_rows))
    if file := config.getoption("--table", default=None):
        table.write(file, _rows)


@pytest.fixture(scope="session")
def mortal_postgres(server_folder: Path) -> Iterator[Postgres]:
    """A PostgreSQL that each case may kill, and leaves running."""
    with Postgres(server_folder / "mortal-postgres", free_ports(1)[0]) as server:
        migrate(server.create_database(TEMPLATE))
        yield server


@pytest.fixture(scope="session")
def mortal_rabbitmq(
    request: pytest.FixtureRequest, server_folder: Path, pytestconfig: pytest.Config
) -> Iterator[RabbitMQ]:
    """A RabbitMQ that each case may kill, and leaves running: the other tests', or a container."""
    if image := pytestconfig.getoption("--container", default=None):
        yield from container(server_folder / "contained-rabbitmq", image)
    else:
        yield request.getfixturevalue("mortal_rabbitmq")


@pytest.fixture
def site(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    mortal_postgres: Postgres,
    own_rabbitmq: RabbitMQ,
) -> Iterator[Site]:
    """An empty site: the case adds the programs."""
    name = fresh_name(request)
    mortal_postgres.create_database(name, TEMPLATE)
    with ExitStack() as stack:
        yield Site(
            stack,
            tmp_path,
            mortal_postgres,
            own_rabbitmq,
            database=name,
            vhost=name,
            without=request.config.getoption("--without", default=[]),
        )


Fault = Callable[[Site, Stream], None]
"""Makes something go wrong while documents stream in; it is over when this returns."""


@dataclass(frozen=True)
class Case:
    """One case of the matrix under way."""

    name: str
    documents: int
    seed: int
    patience: float

    def run(
        self,
        site: Site,
        fault: Fault,
        remarks: Sequence[str] = (),
        seconds: float = 0,
        recovery: float = RECOVERY_SECONDS,
    ) -> Verdict:
        """Stream, make the fault when a quarter is accepted, wait for the end, judge.

        Args:
            site: with its programs started.
            fault: makes the fault and ends it.
            remarks: stand in the table's last column; the fault may add some while it is made.
            seconds: how long the backlog may take to drain, if that is longer than usual.
            recovery: how long the first document that is accepted afterwards may take.

        Raises:
            AssertionError: the promise was not kept.
        """
        verdict = _rows[self.name] = Verdict(
            remarks=remarks, notes=["not finished"], recovery_limit=recovery
        )
        site.wait_ready()
        stream = Stream(site.background, [api.url for api in site.apis], self.seed, key=site.key)
        site.wait(lambda: len(stream.accepted) >= self.documents / 4, 120, "documents accepted")
        try:
            fault(site, stream)
        except AssertionError as error:
            verdict.notes = [f"the fault does not end: {str(error).splitlines()[0]}"]
            raise
        ended = monotonic()
        stream.until(max(self.documents, len(stream.accepted) + self.documents // 4))
        verdict.notes.clear()
        self._time(site, stream, verdict, ended, max(seconds, self.patience))
        verdict.restarts = site.restarts
        judge(site, stream, verdict)
        assert not verdict.faults(), "; ".join(verdict.faults())
        return verdict

    def _time(
        self, site: Site, stream: Stream, verdict: Verdict, ended: float, seconds: float
    ) -> None:
        try:
            first = site.wait(lambda: stream.first_after(ended), seconds, "accepted again")
            site.wait(lambda: site.stored(first), seconds, "stored again")
            verdict.recovery = seconds_since(ended)
            site.wait(stream.ended, 120 + seconds, "the end of the stream")
            site.wait(lambda: drained(site, stream), seconds, "the backlog is drained")
            verdict.drained = seconds_since(ended)
        except AssertionError as error:
            stream.until(0)
            site.wait(stream.ended, 30, "the end of the stream")
            verdict.notes.append(str(error))


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    """The case, named by its test's first line of documentation or its parameter."""
    marker = request.node.get_closest_marker("fault")
    name = marker.args[0] if marker else request.node.name
    if image := request.config.getoption("--container", default=None):
        name += f" ({image})"
    usual = DOCUMENTS if is_matrix(request.config) else QUICK_DOCUMENTS
    documents = request.config.getoption("--documents", default=None) or usual
    patience = request.config.getoption("--patience", default=120)
    return Case(name, documents, sum(map(ord, name)), patience)


@pytest.fixture
def harm(tmp_path: Path) -> Path:
    """A folder in which deadly texts count what they did."""
    folder = tmp_path / "harm"
    folder.mkdir()
    return folder
