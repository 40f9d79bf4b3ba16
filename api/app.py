"""The API, put together: the one place that knows all of its parts."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import fastapi_offline
from fastapi import FastAPI, Request, Response
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from api import errors, openapi
from api.deps import Services
from api.middleware import HeadAsGet, Measured, RateLimits, RequestId, SecurityHeaders
from api.routes import (
    audit,
    categories,
    classify,
    dead_letters,
    documents,
    exports,
    health,
    history,
    imports,
    keys,
    ledger,
    listings,
    metrics,
    reclassifications,
    stats,
    status,
    tokens,
)
from api.settings import ApiSettings
from api.shortcut import Shortcut
from api.tracing import RequestSpan, telemetry, tracing_of
from shared.logs import configure_logs
from shared.settings import load

if TYPE_CHECKING:
    from shared.tracing import Tracing

_DESCRIPTION = """
Hand it documents; it answers at once, keeps what it accepted, sorts and stores it.
Every error is `application/problem+json` (RFC 9457). Times are UTC, RFC 3339.
"""

_ASSETS: Final = "/docs/assets"
_REDOC: Final = "redoc.standalone.js"
_FOREIGN_LOGO: Final = "https://cdn.redoc.ly/redoc/logo-mini.svg"

_CORS_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_CORS_TAKEN: Final = (
    "Authorization",
    "Content-Encoding",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "Prefer",
    "X-Request-Id",
)
_CORS_TOLD: Final = (
    "ETag",
    "Link",
    "Location",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "WWW-Authenticate",
    "X-Request-Id",
)


def create_app(settings: ApiSettings | None = None, tracing: "Tracing | None" = None) -> FastAPI:
    """Return the app; without `settings`, those of the environment, and `tracing` as they say.

    Raises:
        SystemExit: a setting is wrong.
    """
    settings = settings or load(ApiSettings)
    tracing = tracing or tracing_of(settings)
    configure_logs(settings.log_level, "api", *([tracing.add_ids] if tracing else []))

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = Services(settings, tracing)
        app.state.services = services
        keeper = asyncio.create_task(services.keep_up())
        # What is there by now stays: to look for garbage in it keeps all who wait for a tenth of a
        # second, every few thousand requests.
        gc.collect()
        gc.freeze()
        yield
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeper
        await services.close()
        if tracing:
            await asyncio.to_thread(tracing.close)

    # The pages of the documentation with their assets in our package: no internet needed.
    app = FastAPIOffline(
        title="Postroom",
        version="1",
        summary="Document ingestion: accepted at once, never lost, classified, stored.",
        description=_DESCRIPTION,
        static_url=_ASSETS,
        root_path=settings.root_path,
        telemetry=telemetry(tracing),
        lifespan=lifespan,
    )
    # Before the folder of assets, so that it is found first.
    app.router.routes.insert(0, Route(f"{_ASSETS}/{_REDOC}", _redoc))
    # From the inside out.
    app.add_middleware(RateLimits)
    app.add_middleware(RequestId)
    app.add_middleware(Shortcut)
    if tracing:
        app.add_middleware(RequestSpan)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins.split(","),
            allow_methods=_CORS_METHODS,
            allow_headers=_CORS_TAKEN,
            expose_headers=_CORS_TOLD,
        )
    app.add_middleware(SecurityHeaders)
    app.add_middleware(Measured)
    app.add_middleware(HeadAsGet)
    errors.install(app)
    openapi.install(app)
    for route in (
        exports,
        listings,
        documents,  # after those two: one of its paths is any id
        categories,
        classify,
        dead_letters,
        imports,
        keys,
        ledger,
        health,
        metrics,
        reclassifications,
        history,
        stats,
        status,
        audit,
        tokens,
    ):
        app.include_router(route.router)
    return app


async def _redoc(_: Request) -> Response:
    """Serve ReDoc without the logo that it would fetch from its maker's host."""
    return Response(_redoc_script(), media_type="text/javascript")


@cache
def _redoc_script() -> str:
    script = (Path(fastapi_offline.__file__).parent / "static" / _REDOC).read_text()
    return script.replace(_FOREIGN_LOGO, "data:,")
