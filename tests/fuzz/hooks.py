"""What Schemathesis cannot know: rules between fields, which no schema can say."""

from typing import Any, Final

import schemathesis
from schemathesis import Case, CheckContext, Response, SerializationContext
from schemathesis.specs.openapi.checks import (
    negative_data_rejection,
    positive_data_acceptance,
    use_after_free,
)

RULES: Final = (
    "is not a cursor of this list",
    "belongs to a list with other filters, or sorted otherwise",
    "must not contain NUL characters",
    "must be true without a filter, and only then",
    "must not come together with If-Match",
    "must be * where a document is written",
    "must name one revision",
    'must be * or an entity tag in double quotes, such as "17"',
    "came with another document before; nothing was changed",
    "must be the id in the path, or be left out",
    "must be in the future",
    "cannot be combined with `q`: what fits best comes first",
    "is not known, or not for this Content-Type",
    "must have a word to search for",
    "must not be more than 1440 points before the end",
    "must not be more than 400 points before the end",
)
"""How details begin of errors for which a request is refused that its schema allows."""


TEXTS: Final = ("application/x-ndjson", "text/csv")
"""Bodies that are a text to a schema, whatever is in it."""


@schemathesis.serializer(*TEXTS)
def as_it_is(context: SerializationContext, value: object) -> bytes:
    """Send the text that the schema says such a body is."""
    return value if isinstance(value, bytes) else str(value).encode(errors="surrogatepass")


@schemathesis.check
def what_the_schema_allows_is_accepted(
    context: CheckContext, response: Response, case: Case[Any]
) -> bool | None:
    """Pass a request that one of the rules refuses; check any other as Schemathesis does.

    A body that is no gzip though a header says so, or lines that are no documents, may be refused.
    """
    unreadable = case.media_type in TEXTS or "Content-Encoding" in (case.headers or {})
    if unreadable and response.status_code in {400, 422}:
        return None
    if response.status_code == 422:
        errors: list[dict[str, Any]] = response.json().get("errors", [])
        if any(each["detail"].startswith(RULES) for each in errors):
            return None
    return positive_data_acceptance(context, response, case)


@schemathesis.check
def what_the_schema_forbids_is_refused(
    context: CheckContext, response: Response, case: Case[Any]
) -> bool | None:
    """Check as Schemathesis does, but for bodies that are a text: so is whatever it puts there."""
    return None if case.media_type in TEXTS else negative_data_rejection(context, response, case)


@schemathesis.check
def what_is_deleted_is_gone(
    context: CheckContext, response: Response, case: Case[Any]
) -> bool | None:
    """Check as Schemathesis does, but for a document's history, which says when it was deleted."""
    return None if case.path.endswith("/history") else use_after_free(context, response, case)
