from typing import Any

from shared.models import Base


def test_every_constraint_and_index_has_a_name_that_migrations_can_use() -> None:
    for table in Base.metadata.tables.values():
        things: list[Any] = [*table.constraints, *table.indexes]
        for thing in things:
            assert thing.name, f"{thing} of {table.name}"
            assert str(thing.name).startswith(("pk_", "ck_", "ix_", "uq_", "fk_"))
            assert len(str(thing.name)) < 64


def test_every_list_index_leaves_tombstones_out() -> None:
    table = Base.metadata.tables["documents"]
    for index in table.indexes:
        where = str(index.dialect_options["postgresql"]["where"])
        expected = "content IS NULL" if "tombstones" in str(index.name) else "content IS NOT NULL"
        assert where.startswith(expected)


def test_what_changes_with_every_write_has_no_index() -> None:
    """An index on one of these would make every update move the row."""
    table = Base.metadata.tables["documents"]
    indexed = {column.name for index in table.indexes for column in index.columns}
    assert not indexed & {"revision", "content_revision", "updated_at", "task_id"}
