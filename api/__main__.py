"""Start the API: `python -m api`."""

from types import FrameType

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.settings import ApiSettings
from shared.settings import load


class _Server(uvicorn.Server):
    """A server that has nobody wait any more once it is told to stop."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

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
    config = uvicorn.Config(
        app,
        host=settings.api_host,
        port=settings.api_port,
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        forwarded_allow_ips=settings.forwarded_allow_ips,
        timeout_graceful_shutdown=10,
    )
    _Server(config, app).run()


if __name__ == "__main__":
    main()
