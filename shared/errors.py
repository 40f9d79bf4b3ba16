"""Errors of the domain, without words of HTTP. The API gives each its status in `api/errors.py`.

PostroomError
├── BrokerUnavailable      the message was not confirmed: nothing was promised
├── BacklogFull            too much waits to be processed: nothing was promised
├── DatabaseUnavailable    the database does not answer in time
└── DocumentNotFound       no such document is stored, or not yet, or it was deleted
"""


class PostroomError(Exception):
    """The root of all errors that Postroom raises on purpose."""


class BrokerUnavailable(PostroomError):
    """The broker did not confirm a message in time."""


class BacklogFull(PostroomError):
    """More messages wait to be processed than `BACKLOG_LIMIT`; they must be worked off first."""


class DatabaseUnavailable(PostroomError):
    """The database did not answer in time."""


class DocumentNotFound(PostroomError):
    """No document with this id is stored: unknown, not stored yet, or deleted."""
