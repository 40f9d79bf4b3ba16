"""What PostgreSQL says of itself."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import text
from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class Server:
    """The database's server.

    Attributes:
        version: of PostgreSQL.
        connections: to this database, of all programs.
        max_connections: that the server takes, to all databases.
        bytes: that the database takes on disk.
    """

    version: str
    connections: int
    max_connections: int
    bytes: int


def look(session: Session) -> Server:
    """Return what it says."""
    return Server(**session.execute(_LOOK).mappings().one())


_LOOK: Final = text("""
    SELECT current_setting('server_version') AS version,
        (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) AS connections,
        CAST(current_setting('max_connections') AS int) AS max_connections,
        pg_database_size(current_database()) AS bytes
""")
