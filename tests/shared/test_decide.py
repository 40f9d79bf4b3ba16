"""The rules of order, as a table; and the checks that they hold in every order (see below)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import decide
from shared.decide import (
    UNSET,
    Change,
    Decision,
    Label,
    MetadataPatch,
    NeedsClassification,
    Outcome,
    Patch,
    Prediction,
    Put,
    Reclassify,
    Stored,
    deltas,
    merge_patch,
    same_json,
)
from shared.revision import Clock
from tests.shared import decide_reference
from tests.shared.decide_reference import (
    EIGHT_KINDS,
    KINDS,
    PUTS,
    RECLASSIFICATIONS,
    Accepted,
    Difference,
    Explorer,
    State,
)

SPACE = Prediction("sci.space", 0.9, "m1")
AUTOS = Prediction("rec.autos", 0.8, "m1")
UNREADABLE = Prediction(None, None, None, {"title": "cannot be classified"})


def put(
    stamp: int,
    content: str = "orbit",
    *,
    metadata: dict[str, Any] | None = None,
    source: str | None = "mail",
    label: Label = UNSET,
    prediction: Prediction | None = SPACE,
) -> Put:
    return Put(stamp, content.encode(), metadata or {"a": 1}, source, None, label, prediction)


def after(*operations: Put | Patch | int) -> Stored:
    """Return the row after operations in this order of arrival; a number is a DELETE at it."""
    row: Stored | None = None
    for op in operations:
        decision = step(row, op)
        assert decision is not None
        row = decision.row
    assert row is not None
    return row


def step(row: Stored | None, op: Put | Patch | int) -> Decision | None:
    match op:
        case Put():
            return decide.put(row, op)
        case Patch():
            return decide.patch(row, op, now=0)
        case _:
            return decide.delete(row, now=op)


STORED = after(put(10))
FAILED = after(put(10, prediction=UNREADABLE))
TOMBSTONE = after(put(10), 20)
LABELLED = after(put(10, label="x"))
PATCHED = after(put(10), Patch({"b": 2}))  # the patch's stamp is 11


@pytest.mark.parametrize(
    ("row", "op", "outcome", "change", "classified"),
    [
        pytest.param(None, put(10), "c", "CONTENT", True, id="new"),
        pytest.param(None, put(10, prediction=UNREADABLE), "f", "CONTENT", True, id="new, fails"),
        pytest.param(
            STORED, put(11, "car", prediction=AUTOS), "s", "CONTENT", True, id="other text"
        ),
        pytest.param(STORED, put(11), "u", "STAMPS", False, id="same"),
        pytest.param(STORED, put(11, label="x"), "s", "ROW", False, id="same, label"),
        pytest.param(LABELLED, put(11, label="x"), "u", "ROW", False, id="same, same label again"),
        pytest.param(STORED, put(11, source=None), "s", "ROW", False, id="other source"),
        pytest.param(STORED, put(11, metadata={"a": True}), "s", "ROW", False, id="1, true"),
        pytest.param(
            STORED, put(11, prediction=AUTOS), "u", "STAMPS", False, id="keeps prediction"
        ),
        pytest.param(FAILED, put(11), "s", "ROW", True, id="failed, the same text succeeds"),
        pytest.param(FAILED, put(11, prediction=UNREADABLE), "f", "ROW", True, id="fails again"),
        pytest.param(STORED, put(10), "x", "NONE", False, id="redelivered"),
        pytest.param(STORED, put(10, "car"), "x", "NONE", False, id="another's stamp, later"),
        pytest.param(STORED, put(9, "car"), "x", "NONE", False, id="older"),
        pytest.param(STORED, put(9, "car", label="x"), "s", "ROW", False, id="older, first label"),
        pytest.param(FAILED, put(9, label="x"), "s", "ROW", False, id="failed, older, first label"),
        pytest.param(LABELLED, put(9, label="y"), "x", "NONE", False, id="older, older label"),
        pytest.param(TOMBSTONE, put(21), "c", "CONTENT", True, id="after the delete"),
        pytest.param(TOMBSTONE, put(19, label="x"), "x", "NONE", False, id="before the delete"),
        pytest.param(TOMBSTONE, put(20, label="x"), "x", "NONE", False, id="at the delete"),
        pytest.param(
            PATCHED, put(12, metadata={"a": 1, "b": 2}), "u", "ROW", False, id="drops a patch"
        ),
        pytest.param(STORED, Patch({"a": 2}), "s", "ROW", False, id="patch"),
        pytest.param(STORED, Patch({"a": 1}), "u", "ROW", False, id="patch that changes nothing"),
        pytest.param(STORED, Patch({}, "x"), "s", "ROW", False, id="patch of the label"),
        pytest.param(STORED, Patch({}), "u", "NONE", False, id="patch of nothing"),
        pytest.param(STORED, 0, "s", "CONTENT", False, id="delete"),
        pytest.param(None, 5, "u", "CONTENT", False, id="delete of nothing"),
        pytest.param(TOMBSTONE, 0, "u", "ROW", False, id="delete again"),
    ],
)
def test_outcome_and_what_is_written(
    row: Stored | None, op: Put | Patch | int, outcome: str, change: str, classified: bool
) -> None:
    decision = step(row, op)

    assert decision is not None
    assert (decision.outcome, decision.change) == (Outcome(outcome), Change[change])
    assert decision.classified is classified
    if decision.change is Change.NONE:
        assert decision.row is row
    elif row is not None and decision.row is not None:
        assert decision.row.revision > row.revision


ROWS = (None, STORED, FAILED, TOMBSTONE, LABELLED, PATCHED)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("revision", ["*", 10, 11, 20, 999])
@pytest.mark.parametrize("stamp", [5, 15, 25])
def test_if_match(row: Stored | None, revision: decide.Revision, stamp: int) -> None:
    """Where the precondition holds the write is as without it; else nothing is written."""
    op = put(stamp, "car", prediction=AUTOS)
    exists = row is not None and not row.deleted
    if exists and row is not None and revision in {"*", row.revision}:
        assert decide.put(row, replace(op, if_match=revision)) == decide.put(row, op)
    else:
        refused = Decision(row, Outcome.PRECONDITION_FAILED, Change.NONE)
        assert decide.put(row, replace(op, if_match=revision)) == refused


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("stamp", [5, 25])
def test_if_none_match_and_create_only(row: Stored | None, stamp: int) -> None:
    op = put(stamp, "car", prediction=AUTOS)
    if row is None or row.deleted:
        assert decide.put(row, replace(op, if_none_match=True)) == decide.put(row, op)
    else:
        refused = Decision(row, Outcome.PRECONDITION_FAILED, Change.NONE)
        assert decide.put(row, replace(op, if_none_match=True)) == refused
    if row is None:
        assert decide.put(row, replace(op, create_only=True)) == decide.put(row, op)
    else:
        same = Decision(row, Outcome.UNCHANGED, Change.NONE)
        assert decide.put(row, replace(op, create_only=True)) == same


def test_a_write_that_must_match_wins_over_what_was_read() -> None:
    """Its stamp is above the revision that it names, so nothing that was read is above it."""
    for row in (STORED, FAILED, LABELLED, PATCHED):
        clock = Clock(lambda: 1)
        op = put(clock.stamp_above(row.revision), "car", prediction=AUTOS)
        assert decide.put(row, replace(op, if_match=row.revision)).outcome == "s"
        assert clock.stamp() < row.revision  # the clock was not moved along


@pytest.mark.parametrize(
    ("row", "op", "outcome", "change"),
    [
        pytest.param(None, Reclassify(10, SPACE), "x", "NONE", id="nothing"),
        pytest.param(TOMBSTONE, Reclassify(20, SPACE), "x", "NONE", id="deleted"),
        pytest.param(STORED, Reclassify(9, AUTOS), "x", "NONE", id="written anew"),
        pytest.param(STORED, Reclassify(11, AUTOS), "x", "NONE", id="of a write not there"),
        pytest.param(STORED, Reclassify(10, AUTOS), "s", "ROW", id="another category"),
        pytest.param(STORED, Reclassify(10, SPACE), "u", "ROW", id="the same category"),
        pytest.param(STORED, Reclassify(10, UNREADABLE), "f", "NONE", id="stored, fails now"),
        pytest.param(FAILED, Reclassify(10, SPACE), "s", "ROW", id="failed, succeeds"),
        pytest.param(FAILED, Reclassify(10, UNREADABLE), "f", "ROW", id="fails again"),
        pytest.param(LABELLED, Reclassify(10, AUTOS), "s", "ROW", id="labelled"),
    ],
)
def test_reclassification(row: Stored | None, op: Reclassify, outcome: str, change: str) -> None:
    decision = decide.reclassify(row, op)

    assert (decision.outcome, decision.change) == (Outcome(outcome), Change[change])
    assert decision.classified is (change == "ROW")
    if row is None or decision.change is Change.NONE:
        assert decision.row is row
        return
    assert decision.row == replace(
        row,
        revision=row.revision + 1,
        status="stored" if op.prediction.error is None else "failed",
        predicted_category=op.prediction.category,
    )


def test_a_label_wins_over_a_new_classification() -> None:
    row = decide.reclassify(LABELLED, Reclassify(10, AUTOS)).row
    assert row is not None
    assert (row.category, row.predicted_category) == ("x", "rec.autos")


def test_patch_needs_a_document() -> None:
    assert step(None, Patch({"a": 1})) is None
    assert step(TOMBSTONE, Patch({}, "x")) is None


def test_a_tombstone_is_nothing_in_both_registers() -> None:
    row = after(put(10, label="x"), Patch({"b": 1}), 20)

    assert row == Stored(20, 20, 20, content_hash=None)


def test_stamps_of_patch_and_delete_are_above_what_is_stored() -> None:
    assert after(put(10), Patch({}, "x")).label_revision == 11
    assert after(put(10), 5).content_revision == 11
    assert after(put(10), 50).content_revision == 50
    patched = decide.patch(STORED, Patch({"b": 1}), now=50)
    assert patched is not None
    assert patched.row is not None
    assert patched.row.metadata_patches == (MetadataPatch(50, {"b": 1}),)


def test_a_late_label_raises_the_revision_and_not_the_stamps_of_the_content() -> None:
    row = after(put(10), put(7, "car", label="x"))

    assert (row.revision, row.content_revision, row.label_revision) == (11, 10, 7)
    assert (row.predicted_category, row.category) == ("sci.space", "x")


def test_the_last_of_a_b_a_wins_though_b_arrives_last() -> None:
    row = after(put(1, "a"), put(3, "a"), put(2, "b"))

    assert (row.content_hash, row.content_revision) == (b"a", 3)


def test_a_late_put_is_patched_by_what_came_after_it() -> None:
    row = after(
        put(10, metadata={"n": {"x": 0}}), Patch({"n": None}), put(5), Patch({"n": {"y": 1}})
    )
    late = decide.put(replace(row, content_revision=4), put(6, "car", metadata={"n": {"z": 2}}))

    assert late.row is not None
    assert late.row.metadata == {"n": {"y": 1}}
    assert [patch.stamp for patch in late.row.metadata_patches] == [11, 12]


def test_unclassified_write_asks_for_its_classification() -> None:
    for row in (None, FAILED, TOMBSTONE, after(put(10, "car"))):
        with pytest.raises(NeedsClassification):
            decide.put(row, put(30, prediction=None))
    assert decide.put(STORED, put(11, prediction=None)).outcome is Outcome.UNCHANGED
    assert decide.put(FAILED, put(9, "car", prediction=None)).outcome is Outcome.SUPERSEDED


def test_nothing_of_the_arguments_is_changed() -> None:
    metadata: dict[str, Any] = {"n": {"x": 1}}
    row = after(put(10, metadata=metadata), Patch({"n": {"x": None, "y": [1]}}))

    assert row.metadata == {"n": {"y": [1]}}
    assert metadata == {"n": {"x": 1}}


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    # RFC 7396, appendix A, as far as the patch is an object
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(target: object, patch: dict[str, Any], result: dict[str, Any]) -> None:
    assert merge_patch(target, patch) == result


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (1, True, False),
        (0, False, False),
        ([{"a": 0.0}], [{"a": False}], False),
        (None, False, False),
        ("1", 1, False),
        ([], {}, False),
        ([1], [1, 2], False),
        ({"a": None}, {}, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        (True, True, True),
        (1, 1.0, True),
        (2**53 + 1, 2**53, False),
        # jsonb writes 1.2345678901234568e+29 without exponent, Python's json reads an integer
        (1.2345678901234568e29, 123456789012345680000000000000, True),
        (1e308, 10**400, False),
    ],
)
def test_same_json(left: object, right: object, same: bool) -> None:
    assert same_json(left, right) is same
    assert same_json(right, left) is same


def test_deltas_count_live_documents() -> None:
    moved = after(put(1), Patch({}, "talk"))

    assert deltas([]) == {"category": {}, "source": {}, "status": {}}
    assert deltas([(None, moved)]) == {
        "category": {"talk": 1},
        "source": {"mail": 1},
        "status": {"stored": 1},
    }
    assert deltas([(STORED, moved), (None, FAILED)]) == {
        "category": {"sci.space": -1, "talk": 1},
        "source": {"mail": 1},
        "status": {"failed": 1},
    }
    assert deltas([(STORED, TOMBSTONE), (TOMBSTONE, None)]) == {
        "category": {"sci.space": -1},
        "source": {"mail": -1},
        "status": {"stored": -1},
    }


# --- The list of patches is bounded --------------------------------------------------------------


def test_a_full_list_of_patches_becomes_the_metadata_it_led_to() -> None:
    full = after(put(10, metadata={"a": None}), *(Patch({f"k{i}": i}) for i in range(100)))
    closed = after(put(10, metadata={"a": None}), *(Patch({f"k{i}": i}) for i in range(101)))

    assert len(full.metadata_patches) == 100
    expected = {"a": None} | {f"k{i}": i for i in range(101)}
    assert closed.metadata == expected
    assert closed.metadata_patches == (MetadataPatch(111, expected, exact=True),)
    queued = replace(closed, content_revision=9)
    late = decide.put(queued, put(10, "car", metadata={"lost": True}, prediction=AUTOS)).row
    assert late is not None
    assert (late.content_hash, late.metadata) == (b"car", expected)


@pytest.mark.parametrize("bound", [0, 1, 2])
def test_bounded_lists_hold_in_every_order(bound: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference treats the patch that closes a list as "the metadata is exactly this"."""
    monkeypatch.setattr(decide, "MAX_PATCHES", bound)
    monkeypatch.setattr(decide_reference, "EXPECTED_BOUND", bound)

    assert Explorer("PMND").explore(5).orders > 5_000


# --- Every program, every order ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "operations", "tick", "orders"),
    [
        pytest.param(EIGHT_KINDS, 4, 1, 26_896, id="dense stamps"),
        pytest.param(EIGHT_KINDS, 4, 1_000, 26_896, id="stamps far apart"),
        pytest.param(EIGHT_KINDS + "TF", 4, 1, 140_586, id="and failures, true against 1"),
        pytest.param("PSMLDFRU", 4, 1, 35_590, id="and reclassifications"),
    ],
)
def test_every_order_gives_what_the_stamps_say(
    kinds: str, operations: int, tick: int, orders: int
) -> None:
    coverage = Explorer(kinds, tick).explore(operations)

    print(coverage)  # noqa: T201 - pytest shows it with -rP
    assert coverage.orders == orders  # the enumeration itself has not shrunk


Mutate = Callable[[pytest.MonkeyPatch], None]

the_put, the_patch, the_delete = decide.put, decide.patch, decide.delete
the_looks_same = decide._looks_same
the_reclassify = decide.reclassify


def single_guard(stored: Stored | None, op: Put) -> Decision:
    """One revision is stamp, guard and ETag at once."""
    if stored is not None and op.stamp <= stored.revision:
        return Decision(stored, Outcome.SUPERSEDED, Change.NONE)
    return the_put(stored, op)


def unchanged_writes_nothing(stored: Stored | None, op: Put) -> Decision:
    decision = the_put(stored, op)
    if decision.outcome is Outcome.UNCHANGED:
        return Decision(stored, Outcome.UNCHANGED, Change.NONE)
    return decision


def greatest_part(old: Stored, stamp: int) -> int:
    """The ETag is the greatest of the registers' stamps."""
    return max(old.revision, stamp)


def delete_leaves_label(stored: Stored | None, now: int) -> Decision:
    decision = the_delete(stored, now)
    if stored is None or decision.row is None:
        return decision
    kept = replace(decision.row, label=stored.label, label_revision=stored.label_revision)
    return replace(decision, row=kept)


def one_composed_patch(stored: Stored | None, op: Patch, now: int) -> Decision | None:
    decision = the_patch(stored, op, now)
    if decision is None or decision.row is None or not decision.row.metadata_patches:
        return decision
    composed: dict[str, Any] = {}
    for entry in decision.row.metadata_patches:
        composed = compose(composed, entry.value)
    patches = (MetadataPatch(entry.stamp, composed),)
    return replace(decision, row=replace(decision.row, metadata_patches=patches))


def compose(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Merge patches, nulls kept: the best that one patch can say."""
    composed = dict(first)
    for key, value in second.items():
        nested = isinstance(value, dict) and isinstance(first.get(key), dict)
        composed[key] = compose(first[key], value) if nested else value
    return composed


def only_newer(patches: tuple[MetadataPatch, ...], stamp: int) -> tuple[MetadataPatch, ...]:
    return tuple(patch for patch in patches if patch.stamp > stamp)


def put_without_label_clears_it(stored: Stored | None, op: Put) -> Decision:
    return the_put(stored, replace(op, label=None) if op.label is UNSET else op)


def reclassifies_any_content(stored: Stored | None, op: Reclassify) -> Decision:
    if stored is None or stored.deleted:
        return the_reclassify(stored, op)
    return the_reclassify(stored, replace(op, content_revision=stored.content_revision))


def reclassification_stamps(stored: Stored | None, op: Reclassify) -> Decision:
    decision = the_reclassify(stored, op)
    if decision.row is None or decision.change is Change.NONE:
        return decision
    row = replace(decision.row, content_revision=decision.row.revision)
    return replace(decision, row=row)


def reclassification_keeps_the_etag(stored: Stored | None, op: Reclassify) -> Decision:
    decision = the_reclassify(stored, op)
    if stored is None or decision.row is None:
        return decision
    return replace(decision, row=replace(decision.row, revision=stored.revision))


def failure_replaces_a_prediction(stored: Stored | None, op: Reclassify) -> Decision:
    decision = the_reclassify(stored, op)
    if stored is None or decision.outcome is not Outcome.FAILED:
        return decision
    row = replace(stored, revision=stored.revision + 1, status="failed", predicted_category=None)
    return Decision(row, Outcome.FAILED, Change.ROW, classified=True)


def python_equality(old: Stored, row: Stored) -> bool:
    return the_looks_same(old, row) or (
        decide._facts(old) == decide._facts(row) and old.metadata == row.metadata
    )


@dataclass(frozen=True)
class Mutant:
    """A wrong rule in place of one function, and the shortest program that tells it apart."""

    function: str
    wrong: object
    operations: int
    kinds: str = EIGHT_KINDS


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(Mutant("put", single_guard, 2), id="one guard"),
        pytest.param(Mutant("put", unchanged_writes_nothing, 2), id="unchanged writes nothing"),
        pytest.param(Mutant("_revision", greatest_part, 2), id="ETag = greatest part"),
        pytest.param(Mutant("delete", delete_leaves_label, 3), id="delete leaves the label"),
        pytest.param(Mutant("MAX_PATCHES", 0, 3), id="metadata as one register"),
        pytest.param(Mutant("patch", one_composed_patch, 4), id="patches composed"),
        pytest.param(Mutant("_not_older", only_newer, 3), id="> instead of >= in replay"),
        pytest.param(Mutant("put", put_without_label_clears_it, 2), id="no label clears it"),
        pytest.param(Mutant("_looks_same", python_equality, 2, "ST"), id="true == 1"),
        pytest.param(Mutant("reclassify", reclassifies_any_content, 3, "PSFDRU"), id="any content"),
        pytest.param(
            Mutant("reclassify", reclassification_stamps, 2, "PSFDRU"), id="stamps a register"
        ),
        pytest.param(
            Mutant("reclassify", reclassification_keeps_the_etag, 2, "PSFDRU"), id="same ETag"
        ),
        pytest.param(
            Mutant("reclassify", failure_replaces_a_prediction, 2, "PSFDRU"),
            id="a failure replaces a prediction",
        ),
    ],
)
def test_a_wrong_rule_is_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide, mutant.function, mutant.wrong)

    assert shortest_difference(mutant.kinds) == mutant.operations


def shortest_difference(kinds: str) -> int | None:
    for operations in range(1, 5):
        try:
            Explorer(kinds).explore(operations)
        except Difference:
            return operations
    return None


# --- Longer programs, several processes whose clocks disagree ------------------------------------


@dataclass(frozen=True)
class Issue:
    """An operation of one of three processes, so many microseconds after the step before."""

    kind: str
    process: int
    later: int


Step = Issue | int  # a number delivers one of the messages sent so far, again or for the first time

issues = st.builds(Issue, st.sampled_from(list(KINDS)), st.integers(0, 2), st.integers(0, 2))
programs = st.lists(issues | st.integers(0, 30), min_size=4, max_size=30)


@settings(max_examples=1_000, derandomize=True, database=None, deadline=None)
@given(
    program=programs,
    skews=st.tuples(st.just(0), st.integers(0, 3), st.integers(0, 20)),
    bound=st.sampled_from([2, 100]),
)
def test_longer_programs(program: list[Step], skews: tuple[int, ...], bound: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(decide, "MAX_PATCHES", bound)
        patched.setattr(decide_reference, "EXPECTED_BOUND", bound)
        run(program, skews)


def run(program: list[Step], skews: tuple[int, ...]) -> None:
    wall = 1

    def clock(skew: int) -> Clock:
        return Clock(lambda: wall + skew)

    clocks = [clock(skew) for skew in skews]
    state, sent = State(), list[Accepted]()
    for number, step in enumerate(program, start=1):
        if isinstance(step, int):
            state = deliver(state, sent[step % len(sent)]) if sent else state
            continue
        wall += step.later
        state = issue(state, step.kind, number, clocks[step.process])
        sent += [message for message in state.queued[-1:] if message.number == number]
    for message in (*sent, *sent):
        state = deliver(state, message)


def deliver(state: State, message: Accepted) -> State:
    if message in state.queued:
        return state.deliver(message)
    if message.kind not in RECLASSIFICATIONS:  # of those the ledger alone keeps the second off
        state.redeliver(message)
    return state


def issue(state: State, kind: str, number: int, clock: Clock) -> State:
    if kind in PUTS:
        return state.send(kind, number, clock.stamp())
    if kind in RECLASSIFICATIONS:
        return state.look(kind, number) or state
    after = state.edit(kind, number, clock.stamp())
    if after is None:
        return state
    clock.observe(after.row.revision)
    return after
