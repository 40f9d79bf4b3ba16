"""Start the API: `python -m api`."""

import uvicorn

from api.settings import ApiSettings
from shared.settings import load


def main() -> None:
    """Serve until told to stop; requests under way are finished first."""
    settings = load(ApiSettings)
    uvicorn.run(
        "api.app:create_app",
        factory=True,
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


if __name__ == "__main__":
    main()
