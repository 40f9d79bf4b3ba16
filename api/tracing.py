"""Traces of requests: FastAPI makes their spans, and here is said what only we know."""

from typing import TYPE_CHECKING, Final

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import responses
from api.settings import ApiSettings

if TYPE_CHECKING:
    from shared.tracing import Tracing

_ASKED_ALL_THE_TIME: Final = frozenset({"/livez", "/readyz", "/health", "/metrics"})


def tracing_of(settings: ApiSettings) -> "Tracing | None":
    """Return what makes spans, if the settings say where to send them."""
    if not settings.otel_exporter_otlp_endpoint:
        return None
    from shared.tracing import Tracing  # noqa: PLC0415  # only who traces loads it

    return Tracing.exporting(settings, "api", settings.otel_traces_sampler_arg)


def telemetry(tracing: "Tracing | None") -> TelemetryConfig:
    """Return what FastAPI is told of it. Else it would look for exporters on every request."""
    off: TelemetryConfig = {"metrics": False, "logs": False, "auto_configure": False}
    if tracing is None:
        return {**off, "tracing": False}
    return {
        **off,
        "tracing": True,
        "tracer_provider": tracing.provider,
        "operation_spans": False,
        "exclude": lambda scope: scope["path"] in _ASKED_ALL_THE_TIME,
    }


class RequestSpan:
    """Says a request's id in its span, and the route of what never gets to the routes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        span = trace.get_current_span()
        if scope["type"] != "http" or not span.is_recording():
            await self._app(scope, receive, send)
            return
        if scope["path"] == responses.DOCUMENTS:
            route = f"{scope.get('root_path', '')}{responses.DOCUMENTS}"
            span.update_name(f"{scope['method']} {route}")
            span.set_attribute("http.route", route)

        def say() -> None:
            span.set_attribute("postroom.request_id", scope["state"]["request_id"])

        async def send_and_say(message: Message) -> None:
            if message["type"] == "http.response.start":
                say()
            await send(message)

        try:
            await self._app(scope, receive, send_and_say)
        except Exception:
            say()  # the answer to this is made above us
            raise
