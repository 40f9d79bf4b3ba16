"""Settings that the API and the worker have in common.

They come from the environment and from `.env`; the environment wins. Each may come as `NAME_FILE`
as well: the path of a file that holds the value. Each program reads its own class once, at start,
with `load`: a wrong value ends the program there with one line.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from dotenv import dotenv_values
from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
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


def _collector(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://")
    return value.rstrip("/")


def _headers(value: SecretStr) -> SecretStr:
    for each in value.get_secret_value().split(","):
        name, separator, _ = each.partition("=")
        if not separator or not name.strip():
            raise ValueError("must be name=value, with commas in between")
    return value


@dataclass(frozen=True, slots=True)
class Alias:
    """Annotates a setting with the name that some platforms give it; its own name wins."""

    name: str


class BadSource(Exception):
    """A setting cannot be read; the message is one line, without any value."""


class _Surroundings(PydanticBaseSettingsSource):
    """The environment and `.env`, where empty means not set.

    pydantic's own sources know `NAME_FILE` only as a file called `name` in a folder of secrets.
    """

    def __call__(self) -> dict[str, Any]:
        """Return the value of each setting that has one.

        Raises:
            BadSource: a setting has a value and a file, or its file cannot be read.
        """
        places = (os.environ, dotenv_values(".env"))
        found = {
            name: next(_values(name, field, places), None)
            for name, field in self.settings_cls.model_fields.items()
        }
        return {name: value for name, value in found.items() if value is not None}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # `__call__` does without


def _values(
    name: str, field: FieldInfo, places: tuple[Mapping[str, str | None], ...]
) -> Iterator[str]:
    """Yield the values that a setting has, the one that wins first."""
    aliases = [each.name for each in field.metadata if isinstance(each, Alias)]
    for known in (name.upper(), *aliases):
        for place in places:
            value, file = place.get(known), place.get(f"{known}_FILE")
            if value and file:
                raise BadSource(f"{known}: {known}_FILE is set as well; set one of them")
            if value:
                yield value
            if file:
                yield _content(f"{known}_FILE", file)


def _content(name: str, file: str) -> str:
    # Neither the path is told, which may be the secret itself, given under the wrong name.
    try:
        return Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise BadSource(f"{name}: the file cannot be read: {error.strerror}") from None
    except ValueError:
        raise BadSource(f"{name}: the file is no UTF-8 text") from None


class DatabaseSettings(BaseSettings):
    """Where the database is: all that the migrations need."""

    model_config = SettingsConfigDict(frozen=True, hide_input_in_errors=True)

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # the others go unused
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        **_: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the environment and `.env` in our way."""
        return init_settings, _Surroundings(settings_cls)

    database_url: Annotated[SecretStr, AfterValidator(_database_url)]


class SharedSettings(DatabaseSettings):
    """What every process of Postroom needs to know."""

    broker_url: Annotated[SecretStr, AfterValidator(_broker_url), Alias("CLOUDAMQP_URL")]
    log_level: LogLevel = "INFO"
    db_pool_size: int = Field(8, ge=1, le=200, description="connections to PostgreSQL a process")
    tombstone_days: int = Field(
        30, ge=1, le=3650, description="days after which a deleted document's tombstone is purged"
    )
    otel_exporter_otlp_endpoint: Annotated[str, AfterValidator(_collector)] = Field(
        "",
        validate_default=False,
        description="where traces go, by OTLP over HTTP; empty for nowhere",
    )
    otel_exporter_otlp_headers: Annotated[SecretStr, AfterValidator(_headers)] = Field(
        SecretStr(""), validate_default=False, description="headers that the collector asks for"
    )
    otel_traces_sampler_arg: float = Field(
        1.0, ge=0, le=1, description="share of the requests that are traced"
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
    except BadSource as error:
        sys.exit(f"postroom: wrong settings: {error}")
