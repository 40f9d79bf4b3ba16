from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import dead
from shared.dead import Dead, Fault, FaultKind, Letter, RawMessage, Reason
from shared.messages import DELIVERY_LIMIT, RECLASSIFY, REPLAY, VERSION, Classified, Envelope
from shared.revision import DAY, microseconds_now
from tests.shared.store.samples import document_id
from tests.worker.bench import CASES, FINE, Case, body, document, headers

OLDER = {"version": VERSION - 1}

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
OLDEST = microseconds_now() - 30 * DAY
ITEM = {"id": document_id(1), "content_revision": 5}


def raw(content: bytes, head: object, **properties: Any) -> RawMessage:
    made = {"content_type": "application/json", "content_encoding": "utf-8", **properties}
    return RawMessage(head, made["content_type"], made["content_encoding"], content)


def diagnosed(message: RawMessage, *faults: Fault) -> Letter:
    return dead.diagnose(message, faults, oldest=OLDEST, now=NOW)


def fault(kind: str, error: str = "", position: int | None = None, minutes: int = 1) -> Fault:
    return Fault(FaultKind(kind), position, error, NOW - timedelta(minutes=minutes))


# --- The reason ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])
def test_the_reason_is_found_in_the_message(case: Case) -> None:
    content, head, properties, reason = case
    letter = diagnosed(raw(content, head, **properties))
    assert letter.reason == reason
    assert letter.error
    assert (letter.first_at, letter.last_at, letter.attempts) == (NOW, NOW, 1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'[[], {"items": [{"id": "x"}]}, {}]', Reason.INVALID_PAYLOAD),
        (b'[[], {"documents": []}, {}]', Reason.INVALID_PAYLOAD),
        (orjson.dumps([[], {"items": [ITEM]}, {}]), Reason.FAILED),
    ],
)
def test_another_tasks_message_is_read_as_that_task_reads_it(
    content: bytes, reason: Reason
) -> None:
    head = headers(1, task=RECLASSIFY.task, documents=0)
    assert diagnosed(raw(content, head)).reason is reason


def with_death(reason: str, **more: Any) -> RawMessage:
    return raw(FINE, headers(1) | {"x-death": [{"reason": reason, **more}, {"reason": "other"}]})


@pytest.mark.parametrize(
    ("broker", "faults", "reason", "error"),
    [
        ("rejected", [], Reason.FAILED, "not recorded"),
        ("rejected", [fault("raised", "OddError: x")], Reason.FAILED, "OddError: x"),
        ("rejected", [fault("child_lost", "signal 9")] * 3, Reason.CHILD_KILLED, "signal 9"),
        ("rejected", [fault("out_of_memory")], Reason.CHILD_KILLED, "out of memory"),
        ("rejected", [fault("time_limit", "9 seconds")], Reason.CHILD_KILLED, "9 seconds"),
        ("delivery_limit", [], Reason.DELIVERY_LIMIT, "more often"),
        ("delivery_limit", [fault("child_lost")] * 2, Reason.DELIVERY_LIMIT, "more often"),
        ("delivery_limit", [fault("child_lost")] * 3, Reason.CHILD_KILLED, "the child died"),
        ("delivery_limit", [fault("working", position=3)], Reason.DELIVERY_LIMIT, "more often"),
        ("expired", [fault("child_lost")], Reason.EXPIRED, "longer"),
    ],
)
def test_what_is_readable_died_of_what_happened_to_it(
    broker: str, faults: list[Fault], reason: Reason, error: str
) -> None:
    letter = diagnosed(with_death(broker), *faults)
    assert letter.reason is reason
    assert error in letter.error


def test_attempts_and_times_are_those_of_the_faults_and_of_the_broker() -> None:
    letter = diagnosed(
        with_death("rejected", time=datetime(2026, 11, 21, 9, 59)),  # noqa: DTZ001  # as amqp has it
        *(fault("child_lost", minutes=minutes) for minutes in (7, 5, 3)),
        fault("working"),
    )
    assert (letter.attempts, letter.first_at) == (3, NOW - timedelta(minutes=7))
    assert letter.last_at == NOW
    assert diagnosed(with_death("delivery_limit")).attempts == DELIVERY_LIMIT + 1
    time = NOW - timedelta(seconds=9)
    assert diagnosed(with_death("rejected", time=time)).first_at == time


@pytest.mark.parametrize("odd", [None, "x", 5, [], ["x"], [{}], [{"reason": 5, "time": "x"}], {}])
def test_odd_notes_of_a_broker_do_no_harm(odd: object) -> None:
    assert diagnosed(raw(FINE, headers(1) | {"x-death": odd})).reason is Reason.FAILED


# --- The account ---------------------------------------------------------------------------------


def test_a_message_of_any_version_is_in_the_account() -> None:
    letter = diagnosed(raw(b"?", headers(5, version=0, documents=7, through=9)))
    assert letter.envelope == Envelope(UUID(int=5, version=4), 1, 7, 9, 0)
    assert letter.documents == 7


@pytest.mark.parametrize(
    "change",
    [
        {"producer_id": "x"},
        {"seq": -1},
        {"seq": 1 << 63},
        {"documents": 1 << 40, "through": 1 << 41},
        {"documents": 2, "through": 1},
        {"through": ...},
    ],
)
def test_a_message_without_sound_numbers_is_outside_the_account(change: dict[str, Any]) -> None:
    letter = diagnosed(raw(FINE, headers(5, **change)))
    assert letter.envelope is None
    assert (letter.reason, letter.documents) == (Reason.MALFORMED_HEADERS, 1)


# --- Fingerprints --------------------------------------------------------------------------------


def test_letters_that_died_alike_have_one_fingerprint() -> None:
    def fingerprint(error: str, reason: str = "rejected") -> str:
        return diagnosed(with_death(reason), fault("raised", error)).fingerprint

    first = fingerprint(f'OddError: row {document_id(1)} has "x" at 12.5')
    assert first == fingerprint(f'OddError: row {document_id(2)} has "yy" at 3')
    assert first != fingerprint(f'EvenError: row {document_id(1)} has "x" at 12.5')
    assert len(first) == 16


# --- Single documents ----------------------------------------------------------------------------


def test_the_letter_of_a_culprit_is_a_message_of_its_own() -> None:
    envelope = Envelope(UUID(int=5, version=4), 3, 9, 30, replays=UUID(int=6))
    faults = [
        fault("child_lost", "signal 9", minutes=4),
        fault("raised", "OddError", minutes=3),
        fault("child_lost", "signal 11", position=4, minutes=2),
        fault("child_lost", "signal 6", position=7, minutes=1),
    ]
    one: Any = document(document_id(1))
    letter = dead.single(REPLAY, envelope, one, 4, faults)
    assert (letter.reason, letter.position, letter.documents) == (Reason.CHILD_KILLED, 4, 1)
    assert letter.error == "the child died: signal 11"
    assert (letter.attempts, letter.first_at) == (3, faults[0].at)
    assert letter.envelope is envelope
    assert dead.read(letter.raw, OLDEST) == [one]
    assert dead.replayable(letter.raw, announced=1, oldest=OLDEST) == [one]


def test_the_letter_of_a_culprit_that_is_stored_names_it_and_counts_none() -> None:
    envelope = Envelope(UUID(int=5, version=4), 3, 0, 30)
    one = Classified(id=document_id(1), content_revision=7)
    letter = dead.single(RECLASSIFY, envelope, one, 0, [fault("child_lost", "x", position=0)])
    assert (letter.task, letter.position, letter.documents) == (RECLASSIFY.task, 0, 0)
    assert dead.read(letter.raw, OLDEST) == []
    assert orjson.loads(letter.raw.body)[1] == {"items": [one]}


# --- What can be replayed ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", [{"timelimit": "abc"}, {"id": ...}, {"task": ...}, {"seq": "x"}, OLDER]
)
def test_documents_are_replayed_whatever_the_headers_are(change: dict[str, Any]) -> None:
    message = raw(FINE, headers(1, **change))
    (found,) = dead.replayable(message, announced=1, oldest=OLDEST)
    assert found["id"] == document_id(1)


@pytest.mark.parametrize(
    ("message", "announced", "reason"),
    [
        (raw(b"{", headers(1)), 1, Reason.UNDECODABLE),
        (raw(b"{}", headers(1)), 1, Reason.INVALID_PAYLOAD),
        (raw(FINE, headers(1)), 2, Reason.INVALID_PAYLOAD),
        (raw(FINE, headers(1, version=0)), 1, Reason.UNREADABLE_VERSION),
        (raw(FINE, headers(1, task="documents.eat")), 1, Reason.UNKNOWN_TASK),
        (raw(FINE, headers(1, task="ledger.fold")), 1, Reason.UNKNOWN_TASK),
        (raw(body(document(document_id(1), stamp=1)), headers(1)), 1, Reason.TOO_OLD),
    ],
)
def test_what_would_be_dead_again_says_why(
    message: RawMessage, announced: int, reason: Reason
) -> None:
    with pytest.raises(Dead) as found:
        dead.replayable(message, announced=announced, oldest=OLDEST)
    assert found.value.reason is reason


def test_a_new_stamp_makes_an_old_document_young() -> None:
    message = raw(body(document(document_id(1), stamp=1)), headers(1))
    assert dead.replayable(message, announced=1, oldest=0)


# --- What the database takes ---------------------------------------------------------------------


def test_headers_become_json_that_postgresql_takes() -> None:
    odd = {
        "a\0": "b\0\ud800",
        "bytes": b"\xff\0",
        "time": NOW,
        "big": 1 << 70,
        "nested": [{"x": (1, 2.5, None, True)}],
        7: {1, 2},
    }
    plain = dead.plain_headers(odd)
    assert plain["a\ufffd"] == "b\ufffd?"
    assert plain["nested"] == [{"x": [1, 2.5, None, True]}]
    assert plain["big"] == str(1 << 70)
    assert b"\\u0000" not in orjson.dumps(plain)
    assert dead.plain_headers("none") == {}
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    assert orjson.dumps(dead.plain_headers({"deep": deep}))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(
    content=st.binary() | ANYTHING.map(lambda value: orjson.dumps(value, default=str)
                                       if _plain(value) else b"?"),
    head=ANYTHING | st.dictionaries(st.sampled_from([*headers(1), "x-death"]), ANYTHING),
    kind=st.none() | st.text() | st.just("application/json"),
)  # fmt: skip
def test_any_message_has_a_letter(content: bytes, head: object, kind: str | None) -> None:
    letter = diagnosed(RawMessage(head, kind, "utf-8", content))
    assert letter.fingerprint
    assert orjson.dumps(dead.plain_headers(head))
    assert "\0" not in letter.error
    assert letter.error.encode()


def _plain(value: object) -> bool:
    try:
        orjson.dumps(value, default=str)
    except (TypeError, orjson.JSONEncodeError):
        return False
    return True
