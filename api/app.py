"""The API, put together: the one place that knows all of its parts."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from api import errors, openapi
from api.deps import Services
from api.middleware import RequestId
from api.routes import categories, documents, health, ledger
from api.settings import ApiSettings
from shared.logs import configure_logs
from shared.settings import load

_DESCRIPTION = """
Hand it documents; it answers at once, keeps what it accepted, sorts and stores it.
Every error is `application/problem+json` (RFC 9457). Times are UTC, RFC 3339.
"""


def create_app(settings: ApiSettings | None = None) -> FastAPI:
    """Return the app; without `settings`, those of the environment.

    Raises:
        SystemExit: a setting is wrong.
    """
    settings = settings or load(ApiSettings)
    configure_logs(settings.log_level, "api")

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = Services(settings)
        app.state.services = services
        async with asyncio.TaskGroup() as group:
            keepers = [
                group.create_task(services.keep_account()),
                group.create_task(services.keep_queues()),
            ]
            yield
            for keeper in keepers:
                keeper.cancel()
        await services.close()

    # The pages of the documentation with their assets in our package: no internet needed.
    app = FastAPIOffline(
        title="Postroom",
        version="1",
        summary="Document ingestion: accepted at once, never lost, classified, stored.",
        description=_DESCRIPTION,
        static_url="/docs/assets",
        root_path=settings.root_path,
        lifespan=lifespan,
    )
    app.add_middleware(RequestId)
    errors.install(app)
    openapi.install(app)
    for route in (documents, categories, ledger, health):
        app.include_router(route.router)
    return app
