"""PostgreSQL restarted, killed, slow, silent."""

import pytest

from tests.faults.conftest import Case
from tests.faults.site import Site
from tests.faults.test_processes import more
from tests.stream import LONG_PAUSE, PAUSE_SECONDS, Stream

pytestmark = pytest.mark.rabbitmq


@pytest.mark.fault("PostgreSQL restarted")
def test_the_database_is_restarted(site: Site, case: Case) -> None:
    site.add_api()
    site.add_worker()

    def restart(site: Site, stream: Stream) -> None:
        site.postgres.stop()
        more(site, stream)
        site.postgres.start()
        site.postgres.wait_ready()

    case.run(site, restart)


@pytest.mark.quick
@pytest.mark.fault("PostgreSQL killed with -9 and started again")
def test_the_database_is_killed(site: Site, case: Case) -> None:
    site.add_api()
    site.add_worker()

    def kill(site: Site, stream: Stream) -> None:
        site.postgres.kill()
        more(site, stream)
        site.postgres.start()
        site.postgres.wait_ready()

    case.run(site, kill)


@pytest.mark.fault("PostgreSQL slow: 2 s a statement, for 30 s")
def test_the_database_is_slow(site: Site, case: Case) -> None:
    line, _ = site.proxies()
    site.add_api()
    site.add_worker()

    def slow_down(site: Site, stream: Stream) -> None:
        line.delay = (1.0, 1.0)
        stream.pause = LONG_PAUSE
        site.last(30)
        stream.pause = PAUSE_SECONDS
        line.delay = (0.0, 0.0)

    case.run(site, slow_down)


@pytest.mark.fault("PostgreSQL unreachable for 60 s (silent)")
def test_the_line_to_the_database_goes_silent(site: Site, case: Case) -> None:
    line, _ = site.proxies()
    site.add_api()
    site.add_worker()

    def go_silent(site: Site, stream: Stream) -> None:
        line.silence()
        stream.pause = LONG_PAUSE
        site.last(60)
        stream.pause = PAUSE_SECONDS
        line.speak()

    case.run(site, go_silent)
