"""Settings that the API and the worker have in common.

They come from the environment and from `.env`; the environment wins. Each program reads its own
class once, at start, with `load`: a wrong value ends the program there with one line.
"""

import sys
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


def _database_url(value: SecretStr) -> SecretStr:
    """Accept the `postgres://` of Heroku-like platforms; always use psycopg2."""
    scheme, separator, rest = value.get_secret_value().partition("://")
    if not separator or scheme not in {"postgres", "postgresql", "postgresql+psycopg2"}:
        raise ValueError("must start with postgresql://")
    url = f"postgresql+psycopg2://{rest}"
    try:
        make_url(url)
    except (ArgumentError, ValueError):
        # Without the cause, which quotes a part of the URL, perhaps of the password.
        raise ValueError("is no URL of a database") from None
    return SecretStr(url)


def _broker_url(value: SecretStr) -> SecretStr:
    scheme, separator, rest = value.get_secret_value().partition("://")
    if not separator or scheme not in {"amqp", "amqps", "spool"} or not rest:
        raise ValueError("must start with amqp://, amqps:// or spool://")
    return value


class DatabaseSettings(BaseSettings):
    """Where the database is: all that the migrations need."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    database_url: Annotated[SecretStr, AfterValidator(_database_url)]


class SharedSettings(DatabaseSettings):
    """What every process of Postroom needs to know."""

    broker_url: Annotated[SecretStr, AfterValidator(_broker_url)]
    log_level: LogLevel = "INFO"
    db_pool_size: int = Field(8, ge=1, le=200, description="connections to PostgreSQL a process")
    tombstone_days: int = Field(
        30, ge=1, le=3650, description="days after which a deleted document's tombstone is purged"
    )


SettingsT = TypeVar("SettingsT", bound=DatabaseSettings)


def load(settings: type[SettingsT]) -> SettingsT:
    """Read `settings` from the environment and `.env`.

    Raises:
        SystemExit: a value is missing or wrong. The message is one line that names each
            setting and the reason, and never the value, which may be a secret.
    """
    try:
        return settings()
    except ValidationError as error:
        wrong = "; ".join(
            f"{'_'.join(map(str, each['loc'])).upper()}: {each['msg']}" for each in error.errors()
        )
        # The prefix is pydantic's, before reasons that are ours.
        sys.exit(f"postroom: wrong settings: {wrong.replace('Value error, ', '')}")
