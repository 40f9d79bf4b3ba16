"""Long texts: packed with lz4 where the server can, else not at all.

PostgreSQL's own pglz takes a quarter of the time of an insert. Where there is no lz4, as in the
server that `make run` brings, a post takes half as much disk again instead.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "20261121_content_storage"
down_revision: str | None = "20261121_dead_letters"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_LZ4 = sa.text(
    "SELECT 'lz4' = ANY(enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"
)


def upgrade() -> None:
    how = "COMPRESSION lz4" if op.get_bind().scalar(_LZ4) else "STORAGE EXTERNAL"
    op.execute(f"ALTER TABLE documents ALTER COLUMN content SET {how}")


def downgrade() -> None:
    op.execute("ALTER TABLE documents ALTER COLUMN content SET COMPRESSION default")
    op.execute("ALTER TABLE documents ALTER COLUMN content SET STORAGE EXTENDED")
