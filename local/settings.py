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
    postroom_key: str | None
    secret_key: str | None

    @property
    def api_url(self) -> str:
        """Where a client on this machine reaches the API."""
        host = LOOPBACK if self.api_host in EVERYWHERE else self.api_host
        return (
            f"http://[{host}]:{self.api_port}" if ":" in host else f"http://{host}:{self.api_port}"
        )


Places = tuple[Mapping[str, str | None], ...]


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings as the programs do that ``make run`` starts: see shared/settings.py.

    Raises ServerError with one line that names the wrong setting.
    """
    places = (environment, dotenv_values(ROOT / ".env"))
    cores = os.cpu_count() or 1
    return Settings(
        database_url=_url(places, ("DATABASE_URL",), "postgresql://", "postgres://"),
        broker_url=_url(places, ("BROKER_URL", "CLOUDAMQP_URL"), "amqp://", "amqps://", "spool://"),
        api_host=_value(places, "API_HOST") or LOOPBACK,
        api_port=_number(places, ("API_PORT", "PORT"), 8000, 65535),
        flower_port=_number(places, ("FLOWER_PORT",), 5555, 65535),
        data_dir=ROOT / Path(_value(places, "DATA_DIR") or ".data").expanduser(),
        worker_name=_value(places, "WORKER_NAME") or "worker",
        worker_concurrency=_number(places, ("WORKER_CONCURRENCY",), cores, 1000),
        postroom_key=_value(places, "POSTROOM_KEY"),
        secret_key=_value(places, "SECRET_KEY"),
    )


def _value(places: Places, *names: str) -> str | None:
    """Return the first value there is, given or in the file called ``NAME_FILE``; empty is none."""
    for name in names:
        for place in places:
            value, file = place.get(name), place.get(f"{name}_FILE")
            if value and file:
                msg = f"wrong settings: {name}: {name}_FILE is set as well; set one of them"
                raise ServerError(msg)
            if value or file:
                return value or _content(f"{name}_FILE", str(file))
    return None


def _content(name: str, file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        # Neither the path is told, which may be the secret itself, given under the wrong name.
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        msg = f"wrong settings: {name}: the file cannot be read: {reason}"
        raise ServerError(msg) from None


def _number(places: Places, names: tuple[str, ...], default: int, largest: int) -> int:
    text = _value(places, *names)
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= largest:
        msg = f"wrong settings: {names[0]} must be a whole number from 1 to {largest}"
        raise ServerError(msg)
    return int(text)


def _url(places: Places, names: tuple[str, ...], *schemes: str) -> str | None:
    url = _value(places, *names)
    # The driver may be named: postgresql+psycopg2://
    if url is not None and f"{url.partition(':')[0].partition('+')[0]}://" not in schemes:
        msg = f"wrong settings: {names[0]} must start with {' or '.join(schemes)}"
        raise ServerError(msg)
    return url
