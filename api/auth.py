"""Who calls, and whether they may: each route says in its signature which scope it takes.

async def get_ledger(services: ServicesDep, _: Reader) -> LedgerOut: ...
"""

from functools import partial
from typing import Annotated, Final

from fastapi import Request, Security
from fastapi.openapi.models import HTTPBearer
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase

from api.callers import Callers
from api.errors import Forbidden, TooManyRequests, Unauthenticated
from api.rates import Rates
from shared.access import ANYBODY, Caller, Scope

_SCHEME: Final = "bearer"


class Gate:
    """Lets callers in, or says why not."""

    def __init__(self, callers: Callers | None, rates: Rates) -> None:
        """Set who is known; without, everybody may do everything."""
        self._callers = callers
        self.rates = rates

    def admit_at_once(self, authorization: str, scope: Scope) -> Caller | None:
        """Return the caller if that can be told without waiting, and they may."""
        if self._callers is None:
            return ANYBODY
        credential = _bearer(authorization)
        caller = self._callers.known(credential) if credential else None
        return caller if caller is not None and caller.may(scope) else None

    async def admit(self, authorization: str, scope: Scope) -> Caller:
        """Return the caller.

        Raises:
            Unauthenticated: it cannot be told who that is.
            Forbidden: they may not.
            DatabaseUnavailable: it cannot be told at the moment.
            IssuerUnavailable: likewise.
        """
        if self._callers is None:
            return ANYBODY
        credential = _bearer(authorization)
        if not credential:
            raise Unauthenticated("Send a key or a token: `Authorization: Bearer …`.", {})
        caller = await self._callers.find(credential)
        if caller is None:
            detail = "The key or token is unknown, has expired, or was revoked."
            raise Unauthenticated(detail, {"error": "invalid_token"})
        if not caller.may(scope):
            raise Forbidden(f"The key or token lacks the scope {scope}.", scope)
        return caller


def _bearer(authorization: str) -> str:
    scheme, _, credential = authorization.partition(" ")
    return credential.strip() if scheme.lower() == _SCHEME else ""


class _Bearer(SecurityBase):
    """Has FastAPI ask the gate, and document what a route takes."""

    def __init__(self) -> None:
        self.model = HTTPBearer(description="A key, made with `POST /v1/keys`, or a token.")
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
