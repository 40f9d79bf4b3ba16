"""Settings of the API."""

from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr

from shared.settings import Alias, SharedSettings

MAX_BODY_BYTES = 8 << 20
"""Bytes of a request's body at most, also once it is unpacked: a batch becomes one message."""

MAX_BATCH = 1_000
"""Documents in one batch at most."""


def _api_url(value: SecretStr) -> SecretStr:
    url = value.get_secret_value()
    if url and not url.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://")
    return value


class ApiSettings(SharedSettings):
    """What the API needs to know besides where database and broker are."""

    broker_api_url: Annotated[SecretStr, AfterValidator(_api_url)] = Field(
        SecretStr(""), description="RabbitMQ's management API; empty for none"
    )
    auth: Literal["auto", "on", "off"] = Field(
        "auto", description="whether callers need a key; `auto`: unless the API is on loopback"
    )
    api_host: str = "127.0.0.1"
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

    @property
    def asks_for_keys(self) -> bool:
        """Whether callers need a key."""
        return not _loopback(self.api_host) if self.auth == "auto" else self.auth == "on"


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
