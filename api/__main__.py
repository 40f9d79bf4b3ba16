"""Start the API: `python -m api`."""

import logging
import resource
from types import FrameType

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.protocol import BoundedProtocol
from api.settings import ApiSettings
from shared.logs import OncePerEpisode
from shared.settings import load

_OTHER_FILES = 512  # database, broker, libraries


class _Server(uvicorn.Server):
    """A server that waits for nobody for ever, and for nobody at all once it is told to stop."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, slow_client_seconds: float) -> None:
        super().__init__(config)
        self._app = app
        self._slow_client_seconds = slow_client_seconds

    async def on_tick(self, counter: int) -> bool:
        """See to all connections every second; uvicorn ticks ten times as often."""
        if counter % 10 == 0:
            connections = [*self.server_state.connections]
            crowded = len(connections) > BoundedProtocol.room * 3 // 4
            for each in connections:
                if isinstance(each, BoundedProtocol):
                    each.tick(self._slow_client_seconds, crowded=crowded)
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Answer who waits: what they wait for goes on without us."""
        super().handle_exit(sig, frame)
        services = getattr(self._app.state, "services", None)
        if services is not None:
            services.stop_waiting()


def main() -> None:
    """Serve until told to stop; requests under way are finished first."""
    settings = load(ApiSettings)
    app = create_app(settings)
    _make_room()
    # Each of what clients get wrong is a line of uvicorn's, thousands a second if they want.
    logging.getLogger("uvicorn.error").addFilter(OncePerEpisode())
    config = uvicorn.Config(
        app,
        host=settings.api_host,
        port=settings.api_port,
        loop="uvloop",
        http=BoundedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        forwarded_allow_ips=settings.forwarded_allow_ips,
        timeout_graceful_shutdown=10,
    )
    _Server(config, app, settings.slow_client_seconds).run()


def _make_room() -> None:
    """Have as many connections as this process may open files for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = BoundedProtocol.room + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    # With fewer files than others need, half of them.
    BoundedProtocol.room = max(wanted - _OTHER_FILES, wanted // 2)


if __name__ == "__main__":
    main()
