"""What a client would like (RFC 7240): to wait for the outcome, or not to."""

from dataclasses import dataclass
from typing import Final

from fastapi import Request

MAX_WAIT_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class Preference:
    """How long to wait for the outcome of a write, and how to say that it was heeded.

    `seconds` is None where the answer shall not wait.
    """

    seconds: float | None
    applied: str | None

    @property
    def headers(self) -> dict[str, str]:
        """The header that says what was heeded, if anything was asked for."""
        return {"Preference-Applied": self.applied} if self.applied else {}


def preference(request: Request, default: float | None = None) -> Preference:
    """Return what the client prefers, else to wait `default` seconds.

    What cannot be heeded is passed over, as the standard wants it; longer waits are cut to
    `MAX_WAIT_SECONDS`.
    """
    if "prefer" not in request.headers:
        return Preference(default, None)
    asked = _asked(request)
    value = asked.get("wait", "")
    if value.isascii() and value.isdecimal():
        seconds = min(int(value[:9]), MAX_WAIT_SECONDS)
        return Preference(seconds, f"wait={seconds}")
    if "respond-async" in asked:
        return Preference(None, "respond-async")
    return Preference(default, None)


def _asked(request: Request) -> dict[str, str]:
    """Return the preferences by name; of one that comes twice the first counts."""
    asked: dict[str, str] = {}
    for each in ",".join(request.headers.getlist("prefer")).split(","):
        name, _, value = each.partition(";")[0].partition("=")
        asked.setdefault(name.strip().lower(), value.strip().strip('"'))
    return asked
