"""What `make run` and `make demo` are told by the environment and `.env`."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

from local.ports import LOOPBACK
from local.server import ServerError

ROOT = Path(__file__).resolve().parents[1]
EVERYWHERE = {"0.0.0.0", "::", ""}  # noqa: S104  (compared with, not bound to)


@dataclass(frozen=True)
class Settings:
    """See ``.env.example``; paths are absolute."""

    database_url: str | None
    broker_url: str | None
    api_host: str
    api_port: int
    flower_port: int
    data_dir: Path
    worker_name: str
    worker_concurrency: int

    @property
    def api_url(self) -> str:
        """Where a client on this machine reaches the API."""
        host = LOOPBACK if self.api_host in EVERYWHERE else self.api_host
        return (
            f"http://[{host}]:{self.api_port}" if ":" in host else f"http://{host}:{self.api_port}"
        )


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings; the environment wins over ``.env``, and empty means not set.

    Raises ServerError with one line that names the wrong setting.
    """
    kept = {name: value for name, value in dotenv_values(ROOT / ".env").items() if value}
    given = kept | {name: value for name, value in environment.items() if value}
    cores = os.cpu_count() or 1
    return Settings(
        database_url=_url(given, "DATABASE_URL", "postgresql://", "postgres://"),
        broker_url=_url(given, "BROKER_URL", "amqp://", "amqps://", "spool://"),
        api_host=given.get("API_HOST", LOOPBACK),
        api_port=_number(given, "API_PORT", 8000, 65535),
        flower_port=_number(given, "FLOWER_PORT", 5555, 65535),
        data_dir=ROOT / Path(given.get("DATA_DIR", ".data")).expanduser(),
        worker_name=given.get("WORKER_NAME", "worker"),
        worker_concurrency=_number(given, "WORKER_CONCURRENCY", cores, 1000),
    )


def _number(given: Mapping[str, str], name: str, default: int, largest: int) -> int:
    text = given.get(name, str(default))
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= largest:
        msg = f"wrong settings: {name} must be a whole number from 1 to {largest}, not {text!r}"
        raise ServerError(msg)
    return int(text)


def _url(given: Mapping[str, str], name: str, *schemes: str) -> str | None:
    """Return the URL called ``name``, or what the file called ``name_FILE`` holds, or None."""
    url, file = given.get(name), given.get(f"{name}_FILE")
    if not url and file:
        try:
            url = Path(file).read_text().strip()
        except OSError as error:
            msg = f"wrong settings: {name}_FILE: {error}"
            raise ServerError(msg) from error
    # The driver may be named: postgresql+psycopg2://
    if url and f"{url.partition(':')[0].partition('+')[0]}://" not in schemes:
        msg = f"wrong settings: {name} must start with {' or '.join(schemes)}"
        raise ServerError(msg)
    return url or None
