"""Indexes for lists by model, by label, by how sure the model was, and by metadata.

Documents go on to be accepted while they are made; they are stored once it is done.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "20261121_lists"
down_revision: str | None = "20261121_content_storage"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_NEWEST = (sa.text("created_at DESC"), sa.text("id DESC"))
_LIVE = "content IS NOT NULL"
_LABELLED = f"{_LIVE} AND label IS NOT NULL"
_INDEXES: dict[str, tuple[tuple[str | sa.TextClause, ...], str]] = {
    "ix_documents_model_version": (
        ("model_version", *_NEWEST),
        f"{_LIVE} AND model_version IS NOT NULL",
    ),
    "ix_documents_label": (("label", *_NEWEST), _LABELLED),
    "ix_documents_labelled": (_NEWEST, _LABELLED),
    "ix_documents_confidence": (
        ("confidence", "id"),
        f"{_LIVE} AND label IS NULL AND confidence IS NOT NULL",
    ),
}
_METADATA = "ix_documents_metadata"


def upgrade() -> None:
    for name, (columns, where) in _INDEXES.items():
        op.create_index(name, "documents", list(columns), postgresql_where=sa.text(where))
    op.create_index(
        _METADATA,
        "documents",
        ["metadata"],
        postgresql_using="gin",
        postgresql_ops={"metadata": "jsonb_path_ops"},
        postgresql_where=sa.text(f"{_LIVE} AND metadata <> '{{}}'::jsonb"),
    )


def downgrade() -> None:
    for name in (_METADATA, *reversed(_INDEXES)):
        op.drop_index(name, "documents")
