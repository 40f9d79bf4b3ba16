"""Who calls, by what they show: a key, a token for a key, or a token of somebody we trust."""

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from api.keyring import Keyring
from api.tokens import Grant, Issued, Tokens
from shared.access import START, Caller, Key, Scope, digest

if TYPE_CHECKING:
    from api.issuer import Issuer

ISSUER_SECONDS: Final = 300.0
"""How often an issuer's keys are fetched anew: one that it has withdrawn is believed no longer."""


class Callers:
    """Knows callers; for use on one event loop."""

    def __init__(self, keyring: Keyring, tokens: Tokens, issuer: "Issuer | None" = None) -> None:
        self._keyring = keyring
        self._tokens = tokens
        self._issuer = issuer

    def known(self, credential: str) -> Caller | None:
        """Return who shows that, if it can be told without waiting."""
        if credential.startswith(START):
            key = self._keyring.known(digest(credential))
            return None if key is None else key.caller
        if self._issuer is not None and (caller := self._issuer.known(credential)) is not None:
            return caller
        grant = self._tokens.read(credential)
        return None if grant is None else _granted(self._keyring.known(grant.key_id), grant)

    async def find(self, credential: str) -> Caller | None:
        """Return who shows that; None if it is nobody.

        Raises:
            DatabaseUnavailable: it may be a key that is not known here.
            IssuerUnavailable: it may be a token whose issuer's keys cannot be had.
        """
        if credential.startswith(START):
            key = await self._keyring.find(digest(credential))
            return None if key is None else key.caller
        grant = self._tokens.read(credential)
        if grant is not None:
            return _granted(await self._keyring.find(grant.key_id), grant)
        return None if self._issuer is None else await self._issuer.find(credential)

    async def client(self, client_id: str, secret: str) -> Key | None:
        """Return the key that a client is; None if there is no such client.

        Raises:
            DatabaseUnavailable: there may be one that is not known here.
        """
        key = await self._keyring.find(digest(secret))
        return key if key is not None and client_id == str(key.id) else None

    def issue(self, key: Key, wanted: Collection[Scope]) -> Issued:
        """Return a token for a key."""
        return self._tokens.issue(key, wanted)

    async def refresh(self) -> None:
        """Learn which keys are valid by now; to be done every second.

        Raises:
            DatabaseUnavailable: what is known stays so, for a while.
        """
        await self._keyring.refresh()

    async def refresh_issuer(self) -> None:
        """Learn with which keys an outside issuer signs by now; to be done every few minutes.

        Raises:
            IssuerUnavailable: what is known stays so.
        """
        if self._issuer is not None:
            await self._issuer.refresh()


def _granted(key: Key | None, grant: Grant) -> Caller | None:
    # Scopes of a key do not change, so a token's are among them still.
    return None if key is None else replace(key.caller, scopes=grant.scopes)
