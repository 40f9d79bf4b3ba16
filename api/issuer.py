"""Tokens that somebody else issues, such as an OpenID provider, checked by its published keys."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException
from time import monotonic
from typing import IO, Any, Final
from urllib.request import (
    HTTPRedirectHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    build_opener,
)

import jwt
from typing_extensions import override

from api.settings import on_loopback
from api.verified import MAX_CHARACTERS, UNREADABLE, Verified
from shared.access import Caller, scopes
from shared.errors import IssuerUnavailable

AGAIN_SECONDS: Final = 30.0
"""How long after a try the next one may be, whatever keys tokens name: anybody can make them up."""

ALGORITHMS: Final = ("RS256", "ES256")

_NO_TOKEN: Final = (jwt.PyJWTError, *UNREADABLE)
_FETCH_SECONDS: Final = 4.0
_MOST_BYTES: Final = 1 << 20
_FEWEST_RSA_BITS: Final = 2_048
_SKEW_SECONDS: Final = 30.0
_MOST_NAME: Final = 255


@dataclass(frozen=True, slots=True)
class Trusted:
    """Whose tokens are taken.

    Attributes:
        issuer: what their `iss` must be.
        audience: what their `aud` must name.
        keys_url: where the issuer's keys are, a JSON Web Key Set (RFC 7517).
    """

    issuer: str
    audience: str
    keys_url: str


class Issuer:
    """Says what an outside issuer's tokens grant; for use on one event loop."""

    def __init__(self, trusted: Trusted, now: Callable[[], float] = monotonic) -> None:
        self._trusted = trusted
        self._now = now
        self._opener = _opener(trusted.keys_url)
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._verified: Verified[Caller] = Verified()
        self._lock = asyncio.Lock()
        self._tried = -AGAIN_SECONDS
        self._failure = ""  # of the last try

    def known(self, token: str) -> Caller | None:
        """Return who calls, if the token was verified before."""
        return self._verified.get(token)

    async def find(self, token: str) -> Caller | None:
        """Return who calls; None if the token is not valid.

        Raises:
            IssuerUnavailable: its key is not known here, and cannot be had.
        """
        if (caller := self.known(token)) is not None:
            return caller
        key = await self._key(token)
        claims = None if key is None else self._claims(token, key)
        if claims is None:
            return None
        caller = Caller(claims["sub"], scopes(set(_named(claims))))
        self._verified.keep(token, caller, float(claims["exp"]) + _SKEW_SECONDS)
        return caller

    async def refresh(self) -> None:
        """Fetch the keys; what was verified before is verified anew.

        Raises:
            IssuerUnavailable: they cannot be had; those that are known stay so.
        """
        async with self._lock:
            await self._fetch()

    async def _key(self, token: str) -> jwt.PyJWK | None:
        """Return the key that a token names, if the issuer has it, and it is for such tokens."""
        if len(token) > MAX_CHARACTERS:
            return None
        try:
            header = jwt.get_unverified_header(token)
        except _NO_TOKEN:
            return None
        if header.get("alg") not in ALGORITHMS:
            return None
        name = header.get("kid")
        if name not in self._keys:
            await self._fetch_unless_just_tried()
        if name not in self._keys and self._failure:
            raise IssuerUnavailable(self._failure)
        return self._keys.get(name)

    async def _fetch_unless_just_tried(self) -> None:
        async with self._lock:
            if self._now() - self._tried >= AGAIN_SECONDS:
                with contextlib.suppress(IssuerUnavailable):  # kept in `_failure`
                    await self._fetch()

    async def _fetch(self) -> None:
        self._tried = self._now()
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                found = await asyncio.to_thread(self._download)
            self._keys = dict(_usable(found))
        except (OSError, HTTPException, *_NO_TOKEN) as error:
            self._failure = f"{type(error).__name__}: {error}"
            raise IssuerUnavailable(self._failure) from error
        self._verified.clear()
        self._failure = ""

    def _download(self) -> Any:
        request = Request(self._trusted.keys_url, headers={"Accept": "application/json"})  # noqa: S310  # the settings take http and https only
        with self._opener.open(request, timeout=_FETCH_SECONDS) as response:
            body = response.read(_MOST_BYTES + 1)
        if len(body) > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES} bytes")
        return json.loads(body)

    def _claims(self, token: str, key: jwt.PyJWK) -> dict[str, Any] | None:
        """Return what a token claims, if it is signed with `key`, meant for us, and valid."""
        try:
            claims = jwt.decode(
                token,
                key,
                # That of the key alone: none of its tokens is taken for one of another kind.
                algorithms=[key.algorithm_name],
                issuer=self._trusted.issuer,
                audience=self._trusted.audience,
                leeway=_SKEW_SECONDS,
                options={"require": ["iss", "aud", "sub", "exp"]},
            )
        except _NO_TOKEN:
            return None
        name = claims["sub"]
        return claims if len(name) <= _MOST_NAME and name.isprintable() and name else None


def _usable(found: Any) -> Iterator[tuple[str | None, jwt.PyJWK]]:
    """Yield the keys of a set that are for the signatures that we take; others pass unseen.

    Raises:
        jwt.PyJWTError: it is no set of keys, or all of them are of unknown kinds.
    """
    if not isinstance(found, Mapping):
        raise jwt.PyJWKSetError("no JSON object")
    for key in jwt.PyJWKSet.from_dict(dict(found)).keys:
        for_signing = key.public_key_use in {None, "sig"} and key.algorithm_name in ALGORITHMS
        if for_signing and (key.key_type != "RSA" or key.key.key_size >= _FEWEST_RSA_BITS):
            yield key.key_id, key


def _named(claims: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the scopes of a token, in any of the usual ways."""
    for claim in ("scope", "scp", "scopes"):
        value = claims.get(claim)
        if isinstance(value, str):
            yield from value.split()
        elif isinstance(value, list):
            yield from (each for each in value if isinstance(each, str))


class _NoRedirects(HTTPRedirectHandler):
    """Leaves a redirect as the error that it is: keys come from where the settings say."""

    @override
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        """Go nowhere."""


def _opener(url: str) -> OpenerDirector:
    # The environment's proxy, if any, is for what is elsewhere.
    here = (ProxyHandler({}),) if on_loopback(url) else ()
    return build_opener(_NoRedirects, *here)
