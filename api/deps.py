"""What the routes work with: made once a process, in the lifespan of the app."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import structlog
from fastapi import Depends, Request
from uuid_utils.compat import uuid7

from api.audit import Journal
from api.auth import Gate
from api.backlog import Backlog
from api.callers import ISSUER_SECONDS, Callers
from api.classifier import Classifier
from api.evidence import Evidence
from api.exports import Exports
from api.imports.importer import Importer
from api.intake import Intake
from api.keyring import Keyring, Run
from api.metrics import State
from api.outcomes import Outcomes
from api.rates import Rates
from api.schemas.account import LedgerOut
from api.settings import ApiSettings
from api.status import Watch
from api.tokens import Tokens
from shared.account import Account
from shared.db import Database, Session
from shared.errors import BrokerUnavailable, DatabaseUnavailable
from shared.inventory import inventory
from shared.logs import Failing
from shared.messages import BULK_QUEUE, INGEST_QUEUE
from shared.queue import QUEUES, Gauge, Publisher, celery_app
from shared.revision import Clock
from shared.store import ledger

if TYPE_CHECKING:
    from api.issuer import Issuer
    from shared.tracing import Tracing

ResultT = TypeVar("ResultT")

_DATABASE_SECONDS: Final = 4.5
_BROKER_SECONDS: Final = 2.0
_EXPORTS: Final = 4
_EVERY_SECONDS: Final = 1.0
_SELDOM_SECONDS: Final = 10.0

logger = structlog.get_logger(__name__)


class DatabaseThreads:
    """Runs transactions in threads, as many as there are connections, each under a deadline."""

    def __init__(self, database: Database, size: int) -> None:
        self._database = database
        self._threads = ThreadPoolExecutor(size, "database")
        self._said = Failing(logger, "the database does not answer", "the database answers again")

    async def run(self, action: Callable[[Session], ResultT]) -> ResultT:
        """Return what `action` returns, in a transaction of its own.

        Raises:
            DatabaseUnavailable: the database is away, or did not answer within the deadline,
                the wait for a thread included. A write may have been done all the same.
        """
        call = asyncio.get_running_loop().run_in_executor(self._threads, self._transact, action)
        try:
            async with asyncio.timeout(_DATABASE_SECONDS):
                result = await call
        except TimeoutError as error:
            self._said.failed("no answer in time")
            raise DatabaseUnavailable("no answer in time") from error
        except DatabaseUnavailable as error:
            self._said.failed(error)
            raise
        self._said.succeeded()
        return result

    def close(self) -> None:
        """Give up what waits, and close the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._database.close()

    def _transact(self, action: Callable[[Session], ResultT]) -> ResultT:
        with self._database.transaction() as session:
            return action(session)


class Services:
    """Everything behind the routes."""

    def __init__(self, settings: ApiSettings, tracing: "Tracing | None" = None) -> None:
        self.settings = settings
        self.clock = Clock()
        self._loop = asyncio.get_running_loop()
        self._account = Account(uuid7())
        app = celery_app(settings.broker_url.get_secret_value())
        self._publisher = Publisher(app, self._account)
        self._gauge = Gauge(app)
        self.backlog = Backlog(settings.backlog_limit)
        self._bulk = Backlog(settings.backlog_limit)
        self._backlogs = {INGEST_QUEUE: self.backlog, BULK_QUEUE: self._bulk}
        self._waiting: dict[str, int] = {}
        self.intake = Intake(self._publisher, self.backlog, tracing=tracing)
        self.classifier = Classifier(settings.broker_url.get_secret_value(), tracing)
        database = Database(
            settings.database_url.get_secret_value(),
            pool_size=settings.db_pool_size,
            statement_seconds=4,
            application="postroom-api",
        )
        self.database = DatabaseThreads(database, settings.db_pool_size)
        self.callers = _callers(settings, self.database.run)
        self._rates = Rates(self.database.run)
        self.gate = Gate(self.callers, self._rates)
        self.journal = Journal(self.database.run)
        self.outcomes = Outcomes(self.database.run, self._account.producer_id)
        self.exports = Exports(
            settings.database_url.get_secret_value(),
            self.clock,
            at_once=_EXPORTS,
            seconds=settings.export_max_seconds,
        )
        self.imports = Importer(
            self.intake,
            self._bulk,
            self.database,
            self.clock,
            max_content_bytes=settings.max_content_bytes,
        )
        self._inventory = inventory(
            settings.broker_url.get_secret_value(), settings.broker_api_url.get_secret_value()
        )
        self._evidence = Evidence(database, self._inventory)
        self.watch = Watch(
            self.database.run,
            self._publisher,
            Gauge(app),
            self._backlogs,
            self._inventory,
        )
        self._state_lock = asyncio.Lock()
        self._state_until = 0.0
        self._known_account: LedgerOut | None = None

    async def keep_up(self) -> None:
        """Write a mark, see to the queues and to their length every second, until cancelled."""
        await asyncio.gather(
            _repeat(self._mark),
            *self._refreshing(),
            _repeat(self.journal.flush),
            _repeat(self._declare_queues),
            _repeat(self._watch_backlog),
            _repeat(self.imports.settle),
            _repeat(self._look_for_losses, self._inventory.pause),
        )

    async def account(self) -> LedgerOut:
        """Return the account, from one snapshot.

        Raises:
            DatabaseUnavailable: the database does not answer.
        """
        verdict = self._evidence.verdict

        def read(session: Session) -> LedgerOut:
            ledger.one_snapshot(session)
            return LedgerOut.of(
                ledger.totals(session),
                ledger.dead_letters(session),
                verdict.still(session),
                verdict.checked_at,
                verdict.obstacle,
            )

        return await self.database.run(read)

    async def state(self) -> State:
        """Return what Prometheus is told, at most a second old: many may ask."""
        async with self._state_lock:
            if monotonic() >= self._state_until:
                try:
                    account = await self.account()
                except DatabaseUnavailable:
                    account = None
                self._known_account = account
                self._state_until = monotonic() + _EVERY_SECONDS
        backlog = self.backlog
        confirms = self._publisher.confirms
        return State(self._known_account, backlog.messages, backlog.limit, confirms, self._waiting)

    async def check_broker(self) -> None:
        """See whether the broker takes documents.

        Raises:
            BrokerUnavailable: it does not.
            BacklogFull: it has more than it may.
        """
        self.backlog.check()
        try:
            async with asyncio.timeout(_BROKER_SECONDS):
                await asyncio.to_thread(self._publisher.check)
        except TimeoutError as error:
            raise BrokerUnavailable("no answer in time") from error

    def stop_waiting(self) -> None:
        """Answer those who wait for an outcome with what is known; for a signal's handler.

        Uploads are cut off: they go on with another process, or with the next one.
        """
        self._loop.call_soon_threadsafe(self.outcomes.stop)
        self._loop.call_soon_threadsafe(self.imports.stop)

    async def close(self) -> None:
        """Publish what is accepted, write the last mark, close all connections."""
        await self.imports.close()
        await asyncio.to_thread(self.intake.close)
        await asyncio.to_thread(self.classifier.close)
        try:
            await self._mark(closed=True)
        except DatabaseUnavailable as error:
            logger.warning("the last mark cannot be written", reason=str(error))
        await self.journal.close()
        self.watch.close()
        self._gauge.close()
        self._publisher.close()
        self.database.close()
        self.exports.close()

    def _refreshing(self) -> Iterator[Awaitable[None]]:
        """Yield what keeps up with the keys that are valid, and their use, where there are any."""
        if self.callers is not None:
            yield _repeat(self.callers.refresh)
            yield _repeat(self._rates.refresh)
            yield _repeat(self.callers.refresh_issuer, ISSUER_SECONDS)

    async def _declare_queues(self) -> None:
        """Declare the queues, at start and again after a publish has failed."""
        if not self._publisher.declared:
            await asyncio.to_thread(self._publisher.declare)
            logger.info("queues declared")

    async def _watch_backlog(self) -> None:
        """Ask the broker how much waits; of a folder that takes long, less often."""
        start = monotonic()
        waiting: dict[str, int] = {}
        try:
            for queue in dict.fromkeys((*self._backlogs, *QUEUES)):  # the limited ones first
                waiting[queue] = await asyncio.to_thread(self._gauge.waiting, queue)
                if backlog := self._backlogs.get(queue):
                    backlog.observe(waiting[queue])
        finally:
            self._waiting = waiting
        await asyncio.sleep(min(20 * (monotonic() - start), _SELDOM_SECONDS))

    async def _look_for_losses(self) -> None:
        """Look whether what is not accounted for is still on its way."""
        await asyncio.to_thread(self._evidence.step)

    async def _mark(self, *, closed: bool = False) -> None:
        mark = self._account.mark(closed=closed)
        try:
            await self.database.run(lambda session: ledger.mark(session, mark))
        except BaseException:
            self._account.unwritten(mark)
            raise


def _callers(settings: ApiSettings, run: Run) -> Callers | None:
    """Return who is known, where callers are asked who they are."""
    if not settings.asks_for_keys:
        return None
    secrets = [settings.secret_key, settings.secret_key_old]
    tokens = Tokens([each for each in secrets if each.get_secret_value()])
    return Callers(Keyring(run), tokens, _issuer(settings))


def _issuer(settings: ApiSettings) -> "Issuer | None":
    if not settings.oidc_issuer:
        return None
    from api.issuer import Issuer, Trusted  # noqa: PLC0415  # only who has one loads what it needs

    return Issuer(Trusted(settings.oidc_issuer, settings.oidc_audience, settings.oidc_jwks_url))


async def _repeat(work: Callable[[], Awaitable[None]], seconds: float = _EVERY_SECONDS) -> None:
    """Do something again and again, whatever happens; say once that it fails, and once that not."""
    said = Failing(logger, "background work fails", "background work succeeds again")
    while True:
        try:
            await work()
        except Exception as error:  # noqa: BLE001  # the next second may bring what is missing
            said.failed(f"{type(error).__name__}: {error}", work=work.__name__)
        else:
            said.succeeded(work=work.__name__)
        await asyncio.sleep(seconds)


async def services(request: Request) -> Services:
    """Return the services of the app that serves the request.

    A coroutine, though it waits for nothing: FastAPI would call a function in a thread.
    """
    found: Services = request.app.state.services
    return found


ServicesDep = Annotated[Services, Depends(services)]
