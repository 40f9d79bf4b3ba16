"""Who calls, and whether they may: each route says in its signature which scope it takes.

async def get_ledger(services: ServicesDep, _: Reader) -> LedgerOut: ...
"""

from functools import partial
from typing import Annotated, Final

from fastapi import Request, Security
from fastapi.openapi.models import HTTPBearer
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase

from api.errors import Forbidden, TooManyRequests, Unauthenticated
from api.keyring import Keyring
from api.rates import Rates
from shared.access import ANYBODY, Caller, Scope

_SCHEME: Final = "bearer"


class Gate:
    """Lets callers in, or says why not."""

    def __init__(self, keyring: Keyring | None, rates: Rates) -> None:
        """Set whose keys are valid; without, everybody may do everything."""
        self._keyring = keyring
        self.rates = rates

    async def refresh(self) -> None:
        """Learn which keys are valid by now, and what was done with them; every second."""
        if self._keyring is not None:
            await self._keyring.refresh()
            await self.rates.refresh()

    def admit_at_once(self, authorization: str, scope: Scope) -> Caller | None:
        """Return the caller if that can be told without waiting, and they may."""
        if self._keyring is None:
            return ANYBODY
        key = _bearer(authorization)
        caller = self._keyring.known(key) if key else None
        return caller if caller is not None and caller.may(scope) else None

    async def admit(self, authorization: str, scope: Scope) -> Caller:
        """Return the caller.

        Raises:
            Unauthenticated: it cannot be told who that is.
            Forbidden: they may not.
            DatabaseUnavailable: it cannot be told at the moment.
        """
        if self._keyring is None:
            return ANYBODY
        key = _bearer(authorization)
        if not key:
            raise Unauthenticated("Send a key: `Authorization: Bearer …`.", {})
        caller = await self._keyring.caller(key)
        if caller is None:
            detail = "The key is unknown, has expired, or was revoked."
            raise Unauthenticated(detail, {"error": "invalid_token"})
        if not caller.may(scope):
            raise Forbidden(f"The key lacks the scope {scope}.", scope)
        return caller


def _bearer(authorization: str) -> str:
    scheme, _, key = authorization.partition(" ")
    return key.strip() if scheme.lower() == _SCHEME else ""


class _Bearer(SecurityBase):
    """Has FastAPI ask the gate, and document what a route takes."""

    def __init__(self) -> None:
        self.model = HTTPBearer(description="A key, made with `POST /v1/keys`.")
        self.scheme_name = "key"

    async def __call__(self, request: Request, scopes: SecurityScopes) -> Caller:
        """Return the caller of a request; raises as `Gate.admit`."""
        gate: Gate = request.app.state.services.gate
        (scope,) = scopes.scopes
        caller = await gate.admit(request.headers.get("authorization", ""), Scope(scope))
        length = request.headers.get("content-length", "")
        rate = gate.rates.count(caller, int(length) if length.isdecimal() else 0)
        if rate is not None:
            request.state.rate = rate  # for `RateLimits`
            if rate.exceeded:
                raise TooManyRequests("The key has used what it may in a minute.", rate.seconds)
            if not length:
                request.state.count_bytes = partial(gate.rates.add, caller)
        return caller


_BEARER: Final = _Bearer()

Reader = Annotated[Caller, Security(_BEARER, scopes=[Scope.DOCUMENTS_READ])]
Writer = Annotated[Caller, Security(_BEARER, scopes=[Scope.DOCUMENTS_WRITE])]
Classifying = Annotated[Caller, Security(_BEARER, scopes=[Scope.CLASSIFY])]
DeadReader = Annotated[Caller, Security(_BEARER, scopes=[Scope.DEADLETTERS_READ])]
Replayer = Annotated[Caller, Security(_BEARER, scopes=[Scope.DEADLETTERS_REPLAY])]
Admin = Annotated[Caller, Security(_BEARER, scopes=[Scope.ADMIN])]
