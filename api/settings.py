"""Settings of the API."""

import re
from ipaddress import ip_address
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator

from shared.secret_key import SecretKey
from shared.settings import Alias, SharedSettings

MAX_BODY_BYTES = 8 << 20
"""Bytes of a request's body at most, also once it is unpacked: a batch becomes one message."""

MAX_BATCH = 1_000
"""Documents in one batch at most."""

_ORIGIN: Final = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")


def _api_url(value: SecretStr) -> SecretStr:
    url = value.get_secret_value()
    if url and not url.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://")
    return value


def _origins(value: str) -> str:
    origins = [each.strip() for each in value.split(",")] if value else []
    if not all(_ORIGIN.fullmatch(each) for each in origins):
        # Not `*` either: whoever may call from anywhere needs no browser's leave.
        raise ValueError("must be origins such as https://example.org, with commas in between")
    return ",".join(origins)


_OIDC: Final = ("oidc_issuer", "oidc_audience", "oidc_jwks_url")


def _trustworthy(value: str) -> str:
    """Accept only where nobody on the way can put in keys of his own."""
    if value and not (value.startswith("https://") or on_loopback(value)):
        raise ValueError("must start with https://, or with http:// on loopback")
    return value


class AccountSettings(SharedSettings):
    """What it takes to see whether all that was accepted is accounted for."""

    broker_api_url: Annotated[SecretStr, AfterValidator(_api_url)] = Field(
        SecretStr(""), description="RabbitMQ's management API; empty for none"
    )


class ApiSettings(AccountSettings):
    """What the API needs to know besides where database and broker are."""

    auth: Literal["auto", "on", "off"] = Field(
        "auto", description="whether callers need a key; `auto`: unless the API is on loopback"
    )
    api_host: str = "127.0.0.1"
    secret_key: SecretKey = Field(
        SecretStr(""),
        validate_default=True,
        description="what tokens are signed with; needed where callers need a key",
    )
    secret_key_old: SecretKey = Field(
        SecretStr(""), description="another one, whose tokens are still taken"
    )
    oidc_issuer: Annotated[str, AfterValidator(_trustworthy)] = Field(
        "", description="whose tokens are taken besides ours, as their `iss` says it"
    )
    oidc_audience: str = Field("", description="what those tokens name in `aud`: us")
    oidc_jwks_url: Annotated[str, AfterValidator(_trustworthy)] = Field(
        "", validate_default=True, description="where the keys of that issuer are"
    )
    api_port: Annotated[int, Alias("PORT")] = Field(8000, ge=1, le=65_535)
    root_path: str = Field("", pattern=r"^(/[^/?#]+)*$", description="path prefix of a proxy")
    forwarded_allow_ips: str = Field(
        "127.0.0.1", description="proxies whose forwarded headers are believed"
    )
    backlog_limit: int = Field(
        1_000_000, ge=0, description="messages that may wait before no more are accepted"
    )
    export_max_seconds: int = Field(
        3600, ge=1, le=86_400, description="time that an export may take"
    )
    max_content_bytes: int = Field(
        1 << 20, ge=1, le=MAX_BODY_BYTES, description="UTF-8 bytes of a document's content at most"
    )

    @field_validator("secret_key")
    @classmethod
    def _needed(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        if not value.get_secret_value() and _asks_for_keys(**_named(info, "auth", "api_host")):
            raise ValueError("is needed where callers need a key; make one: openssl rand -hex 32")
        return value

    @field_validator("oidc_jwks_url")
    @classmethod
    def _all_or_none(cls, value: str, info: ValidationInfo) -> str:
        if len({bool(each) for each in (*_named(info, *_OIDC).values(), value)}) > 1:
            raise ValueError(f"set all or none of {', '.join(map(str.upper, _OIDC))}")
        return value

    cors_origins: Annotated[str, AfterValidator(_origins)] = Field(
        "", description="origins whose scripts may call the API, with commas in between"
    )
    slow_client_seconds: float = Field(
        60, gt=0, le=3600, description="how far a client may fall behind, sending or reading"
    )

    @property
    def asks_for_keys(self) -> bool:
        """Whether callers need a key."""
        return _asks_for_keys(self.auth, self.api_host)


def on_loopback(url: str) -> bool:
    """Whether a URL is of plain HTTP on this machine."""
    try:
        parts = urlsplit(url)
        return parts.scheme == "http" and _loopback(parts.hostname or "")
    except ValueError:
        return False


def _named(info: ValidationInfo, *names: str) -> dict[str, str]:
    """Return the values of settings that come before; none of those that are wrong."""
    return {name: info.data[name] for name in names if name in info.data}


def _asks_for_keys(auth: str = "off", api_host: str = "") -> bool:
    return not _loopback(api_host) if auth == "auto" else auth == "on"


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
