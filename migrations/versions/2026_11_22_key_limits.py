"""Limits of API keys, and what of them is used."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "20261122_key_limits"
down_revision: str | None = "20261122_api_keys"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("requests_per_minute", sa.BigInteger(), nullable=True))
    op.add_column("api_keys", sa.Column("bytes_per_minute", sa.BigInteger(), nullable=True))
    op.create_table(
        "key_uses",
        sa.Column("key_id", sa.Uuid(), nullable=False),
        sa.Column("minute", sa.BigInteger(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", "minute", name=op.f("pk_key_uses")),
        prefixes=["UNLOGGED"],
    )


def downgrade() -> None:
    op.drop_table("key_uses")
    op.drop_column("api_keys", "bytes_per_minute")
    op.drop_column("api_keys", "requests_per_minute")
