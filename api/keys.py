"""Manage keys where the server is: `python -m api.keys create|list|revoke`, in the API's image.

The first key has to be made here: over HTTP, only who has one can make another.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from shared.access import Limits, Scope, Secret
from shared.db import Database, Session
from shared.errors import DatabaseUnavailable
from shared.models import ApiKey
from shared.settings import DatabaseSettings, load
from shared.store import audit
from shared.store import keys as store
from shared.store.audit import Entry, ObjectKind
from shared.store.keys import Wanted

_MOST: int = 1_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; return the exit status."""
    options = _parser().parse_args(arguments)
    settings = load(DatabaseSettings)
    database = Database(
        settings.database_url.get_secret_value(),
        pool_size=1,
        statement_seconds=10,
        application="postroom-keys",
    )
    try:
        with database.transaction() as session:
            status: int = options.work(session, options)
            return status
    except DatabaseUnavailable as error:
        print(f"postroom: the database does not answer: {error}", file=sys.stderr)
        return 2
    finally:
        database.close()


def _create(session: Session, options: argparse.Namespace) -> int:
    if options.first and not store.none_yet(session):
        print("postroom: there are keys already; none was made", file=sys.stderr)
        return 0
    days = options.days
    expires_at = None if days is None else datetime.now(UTC) + timedelta(days=days)
    secret = Secret.new()
    limits = Limits(options.requests_per_minute, options.bytes_per_minute)
    wanted = Wanted(options.name, options.scopes, expires_at, limits)
    row = store.create(session, wanted, secret)
    _record(session, "createKey", row)
    session.commit()  # before it is told: what is told is valid
    print(secret.value)
    return 0


def _list(session: Session, _: argparse.Namespace) -> int:
    rows, more = store.page(session, None, _MOST)
    for row in rows:
        print(f"{row.id}  {row.prefix}…  {_state(row):20}  {row.name}: {' '.join(row.scopes)}")
    if more:
        print(f"… and more than {_MOST}", file=sys.stderr)
    return 0


def _revoke(session: Session, options: argparse.Namespace) -> int:
    row = store.revoke(session, options.id)
    if row is None:
        print(f"postroom: there is no key {options.id}", file=sys.stderr)
        return 1
    _record(session, "revokeKey", row)
    return 0


def _record(session: Session, action: str, row: ApiKey) -> None:
    """Write down what was done here, under the name that it has over HTTP."""
    details = {"name": row.name, "scopes": row.scopes, "command": "python -m api.keys"}
    entry = Entry(action=action, object_kind=ObjectKind.KEY, object_id=row.id, details=details)
    audit.record(session, entry)


def _state(row: ApiKey) -> str:
    if row.revoked_at:
        return f"revoked {row.revoked_at:%Y-%m-%d}"
    if row.expires_at:
        return f"until {row.expires_at:%Y-%m-%d %H:%M}"
    return "valid"


def _positive(value: str) -> int:
    if not (value.isdecimal() and int(value) > 0):
        raise argparse.ArgumentTypeError("must be a number above 0")
    return int(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m api.keys", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="create|list|revoke")
    create = commands.add_parser("create", help="make a key; prints it, this once")
    create.add_argument("name", help="of the caller")
    create.add_argument("scopes", nargs="+", type=Scope, metavar="scope", help=", ".join(Scope))
    create.add_argument("--days", type=float, help="after which it is valid no more")
    for limit in ("requests", "bytes"):
        create.add_argument(
            f"--{limit}-per-minute", type=_positive, help=f"{limit} that may be sent with it"
        )
    create.add_argument("--first", action="store_true", help="only if there is none yet")
    create.set_defaults(work=_create)
    commands.add_parser("list", help="show all keys").set_defaults(work=_list)
    revoke = commands.add_parser("revoke", help="make a key invalid")
    revoke.add_argument("id", type=UUID)
    revoke.set_defaults(work=_revoke)
    return parser


if __name__ == "__main__":
    sys.exit(main())
