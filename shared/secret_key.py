"""The installation's secret: refused if it can be guessed, and never used for two purposes."""

import hmac
from typing import Annotated, Final

from pydantic import AfterValidator, SecretStr

_FEWEST: Final = 32
_FEWEST_DIFFERENT: Final = 8
_WELL_KNOWN: Final = (
    "changeme",
    "changethis",
    "default",
    "example",
    "insecure",
    "password",
    "placeholder",
    "postroom",
    "qwerty",
    "replaceme",
    "secret",
    "123456789",
)
"""Parts of what people write where something random belongs."""


def _strong(value: SecretStr) -> SecretStr:
    if (secret := value.get_secret_value()) and (reason := _weakness(secret)):
        raise ValueError(f"{reason}; make one with: openssl rand -hex 32")
    return value


def _weakness(secret: str) -> str | None:
    """Return why somebody may guess a secret; None if that is not seen."""
    if len(secret) < _FEWEST:
        return f"must have {_FEWEST} characters or more"
    if len(set(secret)) < _FEWEST_DIFFERENT or secret in (secret + secret)[1:-1]:
        return "must be random, not the same again and again"
    letters = "".join(filter(str.isalnum, secret.lower()))
    if any(each in letters for each in _WELL_KNOWN):
        return "must be random, and has a word in it that is not"
    return None


SecretKey = Annotated[SecretStr, AfterValidator(_strong)]
"""A setting that holds such a secret, or nothing."""


def subkey(secret: SecretStr, purpose: str) -> bytes:
    """Return 256 bits for one purpose, from which neither the secret nor another's can be told.

    As HKDF expands a key that is uniform (RFC 5869, section 2.3), to a single block.
    """
    info = f"postroom {purpose}".encode() + b"\x01"
    return hmac.digest(secret.get_secret_value().encode(), info, "sha256")
