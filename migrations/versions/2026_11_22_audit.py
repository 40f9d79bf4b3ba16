"""The audit log."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "20261122_audit"
down_revision: str | None = "20261122_key_limits"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("caller", sa.Text(), nullable=True),
        sa.Column("key_id", sa.Uuid(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("object_kind", sa.Text(), nullable=True),
        sa.Column("object_id", sa.Uuid(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("outcome", sa.Integer(), nullable=True),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    place: list[str | sa.TextClause | sa.ColumnElement[object]] = [
        sa.literal_column("at DESC"),
        sa.literal_column("id DESC"),
    ]
    op.create_index("ix_audit_at", "audit", place)
    op.create_index("ix_audit_caller", "audit", ["caller", *place])
    op.create_index("ix_audit_action", "audit", ["action", *place])
    op.create_index("ix_audit_object_id", "audit", ["object_id", *place])


def downgrade() -> None:
    op.drop_table("audit")
