"""Errors of the domain, without words of HTTP. The API gives each its status in `api/errors.py`.

PostroomError
├── BrokerUnavailable      the message was not confirmed: nothing was promised
├── BacklogFull            too much waits to be processed: nothing was promised
├── DatabaseUnavailable    the database does not answer in time
├── WorkersUnavailable     no worker has answered in time
├── IssuerUnavailable      the keys of an outside issuer of tokens cannot be had
├── DocumentNotFound       no such document is stored, or not yet, or it was deleted
├── PreconditionFailed     the document is not as the write says that it must be
├── TooBroad               too many documents would have to be looked at for a list
└── TooManyExports         as many exports as may run at once are running
"""


class PostroomError(Exception):
    """The root of all errors that Postroom raises on purpose."""


class BrokerUnavailable(PostroomError):
    """The broker did not confirm a message in time."""


class BacklogFull(PostroomError):
    """More messages wait to be processed than `BACKLOG_LIMIT`; they must be worked off first."""


class DatabaseUnavailable(PostroomError):
    """The database did not answer in time."""


class WorkersUnavailable(PostroomError):
    """No worker answered in time: there is none, all are busy, or the one that was asked died."""


class IssuerUnavailable(PostroomError):
    """The outside issuer's keys cannot be had, so nobody can tell whether a token is its."""


class DocumentNotFound(PostroomError):
    """No document with this id is stored: unknown, not stored yet, or deleted."""


class PreconditionFailed(PostroomError):
    """The document does not have the revision that the write asks for, or is there already."""


class TooBroad(PostroomError):
    """A filter wants few of very many documents, and no index knows which."""


class TooManyExports(PostroomError):
    """As many exports as may run at once are running."""
