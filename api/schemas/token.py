"""Tokens: what a client sends for one, and what it gets (RFC 6749, sections 4.4 and 5)."""

from typing import Literal

from pydantic import BaseModel, Field

from shared.access import Scope

Refusal = Literal["invalid_request", "invalid_client", "unsupported_grant_type", "invalid_scope"]
"""Why there is no token."""


class TokenIn(BaseModel):
    """What a client asks for; who it is may come in `Authorization: Basic` as well."""

    grant_type: Literal["client_credentials"]
    scope: str | None = Field(
        None,
        description="scopes of the key, separated by spaces; all of them if left out",
        examples=[Scope.DOCUMENTS_WRITE],
    )
    client_id: str | None = Field(None, description="the id of a key")
    client_secret: str | None = Field(None, description="the key itself")


class TokenOut(BaseModel):
    """A token, to be sent as `Authorization: Bearer …`."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: int = Field(description="seconds for which it is valid", examples=[300])
    scope: str = Field(
        description="what it is good for, separated by spaces", examples=[Scope.DOCUMENTS_WRITE]
    )


class TokenErrorOut(BaseModel):
    """Why there is no token (RFC 6749, section 5.2)."""

    error: Refusal
    error_description: str = Field(examples=["Send grant_type=client_credentials."])
