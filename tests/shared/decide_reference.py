"""Checks `shared.decide` against a sequential reference: exhaustively, and step by step.

The reference is deliberately simple: it applies all operations that have arrived, in the order of
their stamps, to one plain document. It knows no registers, no patch lists and no tombstones.

`explore` walks every client program and every order of delivery. A PUT travels in a message that
may arrive at any later time, or never; PATCH and DELETE take effect at their point in the program.
A reclassification travels in a message as well, but is no operation of a client and has no stamp of
its own: it says which write's content it saw. The reference remembers beside the document what was
predicted last, until its content is classified by a PUT once more.

After every step the row must look like the reference, its revision must have grown if anything at
all was written, and the outcome must be the one that the reference gives. In every state each
message that has arrived is delivered again, and must write nothing: as the state stays the same,
this covers any number of redeliveries at any time. A PATCH without a document is checked to be
refused and not followed further: what comes after it is the shorter program without it. States
that are equal in all that the future depends on are followed once.

    python -m tests.shared.decide_reference --operations 5
"""

import argparse
import json
import sys
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from time import monotonic
from typing import Any, Final, NamedTuple

from shared import decide
from shared.decide import UNSET, Change, Decision, Outcome, Prediction, Stored

KINDS: Final = {
    "P": "PUT of a new content, metadata, source and external id",
    "Q": "the same, with a label",
    "S": "PUT of always the same content and metadata",
    "M": "PATCH of metadata, nested",
    "N": "PATCH of metadata, null",
    "L": "PATCH of the label",
    "C": "PATCH that clears the label",
    "D": "DELETE",
    "T": "PUT of the content of S, with a 1 in its metadata where S has true",
    "F": "PUT of always the same content, which cannot be classified",
    "R": "reclassification, by a model that can classify everything",
    "U": "reclassification, by a model that can classify nothing",
}
EIGHT_KINDS: Final = "PQSMNLCD"
PUTS: Final = frozenset("PQSTF")
METADATA_PATCHES: Final = frozenset("MN")
LABELS: Final = frozenset("QLC")
RECLASSIFICATIONS: Final = frozenset("RU")

View = dict[str, Any] | None


class Difference(AssertionError):
    """The decision and the reference disagree."""


class Accepted(NamedTuple):
    """An accepted operation. `exactly` is set where a PATCH closed a full list of patches."""

    stamp: int
    synchronous: bool
    kind: str
    number: int
    exactly: str | None = None  # of a reclassification `stamp` is that of the write it saw


History = tuple[Accepted, ...]


# --- The reference -------------------------------------------------------------------------------


def metadata_of(kind: str, number: int) -> dict[str, Any]:
    if kind in "ST":
        return {"n": True if kind == "S" else 1}
    return {"n": {"o": number, "p": number}, "null": None, f"only {number}": number}


def content_of(kind: str, number: int) -> str:
    return {"S": "same", "T": "same", "F": "bad"}.get(kind, f"text {number}")


def source_of(kind: str, number: int) -> str | None:
    return None if kind in "ST" else f"source {number}"


def label_of(kind: str, number: int) -> str | None:
    return None if kind == "C" else f"label {number}"


def patch_of(kind: str, number: int) -> dict[str, Any]:
    if kind == "M":
        return {"n": {"q": number, "p": None}, f"only {number - 1}": None}
    return {"n": None} if kind == "N" else {}


def rfc_7396(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = {} if not isinstance(target, dict) else {**target}
    for name in patch:
        if patch[name] is None:
            result = {other: result[other] for other in result if other != name}
        else:
            result[name] = rfc_7396(result.get(name), patch[name])
    return result


def apply(view: View, op: Accepted) -> View:
    if op.kind == "D":
        return None
    if op.kind in PUTS:
        content = content_of(op.kind, op.number)
        view = {
            "content": content,
            "metadata": metadata_of(op.kind, op.number),
            "source": source_of(op.kind, op.number),
            "external_id": source_of(op.kind, op.number * 10),
            "status": "failed" if content == "bad" else "stored",
            "predicted": None if content == "bad" else f"about {content}",
            "label": None if view is None else view["label"],
        }
    if view is None:
        raise Difference(f"{op} was accepted without a document")
    if op.kind in METADATA_PATCHES:
        view = {**view, "metadata": rfc_7396(view["metadata"], patch_of(op.kind, op.number))}
    if op.exactly is not None:
        view = {**view, "metadata": json.loads(op.exactly)}
    if op.kind in LABELS:
        view = {**view, "label": label_of(op.kind, op.number)}
    return view


@lru_cache(maxsize=1 << 16)
def reference(history: History) -> View:
    return apply(reference(history[:-1]), history[-1]) if history else None


def insert(history: History, op: Accepted) -> History:
    """Put `op` in its place: by stamp, a PUT before what was synchronous at the same stamp.

    Of two PUTs of the same stamp the one that arrived first counts as the later one.
    """
    place = bisect_left([(other.stamp, other.synchronous) for other in history], op[:2])
    return (*history[:place], op, *history[place:])


def last(history: History, kinds: frozenset[str]) -> Accepted | None:
    return next((op for op in reversed(history) if op.kind in kinds), None)


def seen(history: History, predicted: str | None) -> View:
    """The document with what a reclassification predicted, if one did since it was classified."""
    view = reference(history)
    if view is None or predicted is None:
        return view
    return {**view, "status": "stored", "predicted": predicted}


def still_predicted(before: History, after: History, predicted: str | None) -> str | None:
    """What a reclassification predicted is kept as long as the content is."""
    old, new = reference(before), reference(after)
    kept = old is not None and new is not None and old["content"] == new["content"]
    return predicted if kept else None


def expected_outcome(
    before: History, after: History, op: Accepted, old: View, new: View
) -> Outcome:
    wrote_content = last(after, PUTS | {"D"}) is op
    wrote_label = op.kind in LABELS and last(after, LABELS | {"D"}) is op
    if not wrote_content and not wrote_label:
        return Outcome.SUPERSEDED
    if new is not None and wrote_content and new["status"] == "failed":
        return Outcome.FAILED
    if canonical(old) == canonical(new):
        return Outcome.UNCHANGED
    return Outcome.CREATED if old is None else Outcome.REPLACED


def patches_kept(history: History) -> int:
    """How many metadata patches are newer than the content, one that closed a list included."""
    count = 0
    for op in history:
        if op.kind in PUTS | {"D"}:
            count = 0
        elif op.exactly is not None:
            count = 1
        elif op.kind in METADATA_PATCHES:
            count += 1
    return count


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


# --- The database, as far as it matters ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """A row with what a decision does not see, written only as far as the decision says."""

    stored: Stored | None = None
    text: str | None = None
    prediction: Prediction | None = None

    def write(self, decision: Decision, text: str | None, prediction: Prediction | None) -> "Row":
        if decision.change is Change.NONE:
            return self
        new = decision.row
        if new is None:
            raise Difference("a change without a row")
        if decision.change is Change.STAMPS:
            if self.stored is None:
                raise Difference("only stamps were to be written, to no row")
            new = replace(self.stored, revision=new.revision, content_revision=new.content_revision)
        return Row(
            new,
            text if decision.change is Change.CONTENT else self.text,
            prediction if decision.classified else None if new.deleted else self.prediction,
        )

    def view(self) -> View:
        row = self.stored
        if row is None or row.deleted:
            return None
        model = self.prediction
        if model is None or model.category != row.predicted_category:
            raise Difference(f"the row says {row.predicted_category}, its prediction {model}")
        return {
            "content": self.text,
            "metadata": row.metadata,
            "source": row.source,
            "external_id": row.external_id,
            "status": row.status,
            "predicted": row.predicted_category,
            "label": row.label,
        }

    @property
    def revision(self) -> int:
        return 0 if self.stored is None else self.stored.revision


def predict_again(op: Accepted) -> Prediction:
    if op.kind == "U":
        return Prediction(None, None, "model 2", {"title": "cannot be classified"})
    return Prediction(f"again {op.number}", 0.9, "model 2")


def predict(content: str) -> Prediction:
    if content == "bad":
        return Prediction(None, None, None, {"title": "cannot be classified"})
    return Prediction(f"about {content}", 0.5, "model 1")


def put_of(op: Accepted) -> decide.Put:
    content = content_of(op.kind, op.number)
    return decide.Put(
        stamp=op.stamp,
        content_hash=content.encode(),
        metadata=metadata_of(op.kind, op.number),
        source=source_of(op.kind, op.number),
        external_id=source_of(op.kind, op.number * 10),
        label=label_of(op.kind, op.number) if op.kind in LABELS else UNSET,
        prediction=predict(content),
    )


def decide_put(stored: Stored | None, op: decide.Put) -> Decision:
    """Decide with a prediction and without: a hint may save the classifier, never the result."""
    classified = decide.put(stored, op)
    try:
        hinted = decide.put(stored, replace(op, prediction=None))
    except decide.NeedsClassification:
        needed = True
    else:
        needed = False
        if hinted != classified:
            raise Difference(f"without a prediction {hinted}, with one {classified}")
    if needed is not classified.classified:
        raise Difference(f"prediction needed: {needed}, used: {classified.classified}")
    return classified


# --- One step, checked ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class State:
    """A row, the operations that have arrived there, and the messages still on their way."""

    row: Row = field(default_factory=Row)
    history: History = ()
    queued: tuple[Accepted, ...] = ()
    predicted: str | None = None

    def look(self, kind: str, number: int) -> "State | None":
        """Ask for a reclassification of what is stored; None where nothing is."""
        if reference(self.history) is None or self.row.stored is None:
            return None
        target = self.row.stored.content_revision
        write = last(self.history, PUTS | {"D"})
        if write is None or write.stamp != target:
            self._differ(f"the content is said to be of {target}, not of {write}")
        return replace(self, queued=(*self.queued, Accepted(target, False, kind, number)))

    def reclassify(self, message: Accepted) -> "State":
        stored, prediction = self.row.stored, predict_again(message)
        decision = decide.reclassify(stored, decide.Reclassify(message.stamp, prediction))
        write = last(self.history, PUTS | {"D"})
        view = seen(self.history, self.predicted)
        predicted = self.predicted
        if view is None or write is None or write.stamp != message.stamp:
            expected = Outcome.SUPERSEDED
        elif message.kind == "U":
            expected = Outcome.FAILED
        else:
            predicted = prediction.category
            expected = Outcome.REPLACED
        if decision.outcome is not expected:
            self._differ(f"{message}: {decision.outcome!r}, the reference gives {expected!r}")
        if decision.row is not None and stored is not None:
            stamps = (decision.row.content_revision, decision.row.label_revision)
            if stamps != (stored.content_revision, stored.label_revision):
                self._differ(f"{message} stamps a register")
        queued = tuple(other for other in self.queued if other is not message)
        row = self.row.write(decision, None, prediction)
        return self._next(row, self.history, queued, predicted)

    def send(self, kind: str, number: int, stamp: int) -> "State":
        return replace(self, queued=(*self.queued, Accepted(stamp, False, kind, number)))

    def deliver(self, message: Accepted) -> "State":
        if message.kind in RECLASSIFICATIONS:
            return self.reclassify(message)
        put = put_of(message)
        decision = decide_put(self.row.stored, put)
        history = insert(self.history, message)
        predicted = still_predicted(self.history, history, self.predicted)
        old, new = seen(self.history, self.predicted), seen(history, predicted)
        expected = expected_outcome(self.history, history, message, old, new)
        if decision.outcome is not expected:
            self._differ(f"{message}: {decision.outcome!r}, the reference gives {expected!r}")
        text = content_of(message.kind, message.number)
        queued = tuple(other for other in self.queued if other is not message)
        row = self.row.write(decision, text, put.prediction)
        return self._next(row, history, queued, predicted)

    def redeliver(self, message: Accepted) -> None:
        decision = decide_put(self.row.stored, put_of(message))
        quiet = (Outcome.SUPERSEDED, Change.NONE)
        if (decision.outcome, decision.change) != quiet or decision.row is not self.row.stored:
            self._differ(f"{message} again: {decision}")

    def edit(self, kind: str, number: int, now: int) -> "State | None":
        """PATCH or DELETE; None where a PATCH is refused for want of a document."""
        stored = self.row.stored
        decision: Decision | None
        if kind == "D":
            decision = decide.delete(stored, now)
        else:
            label = label_of(kind, number) if kind in LABELS else UNSET
            decision = decide.patch(stored, decide.Patch(patch_of(kind, number), label), now)
            if (decision is None) is not (reference(self.history) is None):
                self._differ(f"{kind}{number}: {decision}")
        if decision is None:
            return None
        row = self.row.write(decision, None, None)
        if row.revision < now:
            self._differ(f"{kind}{number} at {now}: revision {row.revision}")
        op = self._bounded(Accepted(row.revision, True, kind, number))
        history = insert(self.history, op)
        predicted = still_predicted(self.history, history, self.predicted)
        return self._next(row, history, self.queued, predicted)

    def _bounded(self, op: Accepted) -> Accepted:
        history = insert(self.history, op)
        if op.kind in METADATA_PATCHES and patches_kept(history) > EXPECTED_BOUND:
            view = reference(history)
            return op._replace(exactly=canonical(view and view["metadata"]))
        return op

    def _next(
        self,
        row: Row,
        history: History,
        queued: tuple[Accepted, ...],
        predicted: str | None,
    ) -> "State":
        view, expected = canonical(row.view()), canonical(seen(history, predicted))
        if view != expected:
            self._differ(f"{history[-1:]}…: the row is {view}, the reference {expected}")
        if row is not self.row and row.revision <= self.row.revision:
            self._differ(f"written, but the revision stays {row.revision}")
        return State(row, history, queued, predicted)

    def _differ(self, what: str) -> None:
        raise Difference(f"{what}\nfrom {self}")

    def key(self) -> bytes:
        row = self.row.stored
        parts: list[object] = [self.history, self.queued, self.predicted]
        if row is not None:
            parts += [row.revision, row.content_revision, row.label_revision, row.metadata_patches]
        return repr(parts).encode()


EXPECTED_BOUND = 100


# --- All programs, all orders --------------------------------------------------------------------


@dataclass
class Coverage:
    """What an exploration has covered. `orders` counts programs with an order of delivery each."""

    states: int = 0
    steps: int = 0
    redeliveries: int = 0
    refused: int = 0
    orders: int = 0

    def __str__(self) -> str:
        return (
            f"{self.orders:,} complete interleavings in {self.states:,} distinct states, "
            f"{self.steps:,} steps and {self.redeliveries:,} redeliveries checked, "
            f"{self.refused:,} refusals"
        )


@dataclass
class Explorer:
    """Walks all programs of up to so many operations of the given kinds.

    `tick` is the distance of two stamps: 1 lets revisions overtake stamps, 1,000 keeps them apart.
    With `ties`, PATCH and DELETE are also tried with the stamp of the PUT before them, as from
    another process that has not seen it.
    """

    kinds: str = EIGHT_KINDS
    tick: int = 1
    ties: bool = True
    progress: float | None = None
    coverage: Coverage = field(default_factory=Coverage)
    _known: dict[bytes, int] = field(default_factory=dict)
    _shown: float = field(default_factory=monotonic)

    def explore(self, operations: int) -> Coverage:
        self.coverage.orders = self._orders(State(), 0, 0, operations)
        return self.coverage

    def _orders(self, state: State, number: int, clock: int, operations: int) -> int:
        key = blake2b(state.key() + b"%d/%d" % (number, clock), digest_size=16).digest()
        if key in self._known:
            return self._known[key]
        self._visit(state)
        orders = 0
        for message in state.queued:
            self.coverage.steps += 1
            orders += self._orders(state.deliver(message), number, clock, operations)
        if number < operations:
            for after, now in self._operations(state, number + 1, clock):
                orders += self._orders(after, number + 1, now, operations)
        elif not state.queued:
            orders = 1
        self._known[key] = orders
        return orders

    def _operations(self, state: State, number: int, clock: int) -> Iterator[tuple[State, int]]:
        tied = self.ties and any(message.stamp == clock for message in state.queued)
        for kind in self.kinds:
            if kind in PUTS:
                stamp = clock + self.tick
                yield state.send(kind, number, stamp), stamp
                continue
            if kind in RECLASSIFICATIONS:
                if (asked := state.look(kind, number)) is not None:
                    yield asked, clock
                continue
            for now in (clock, clock + self.tick) if tied else (clock + self.tick,):
                after = state.edit(kind, number, now)
                self.coverage.steps += 1
                if after is None:
                    self.coverage.refused += 1
                else:
                    yield after, max(clock, after.row.revision)

    def _visit(self, state: State) -> None:
        self.coverage.states += 1
        for message in state.history:
            if not message.synchronous:
                state.redeliver(message)
                self.coverage.redeliveries += 1
        if self.progress is not None and monotonic() - self._shown > self.progress:
            self._shown = monotonic()
            print(f"… {self.coverage.states:,} states", file=sys.stderr, flush=True)  # noqa: T201 - a command


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.shared.decide_reference",
        description="Check shared.decide against the reference in every program and order.",
        epilog="Kinds: " + "; ".join(f"{letter} {what}" for letter, what in KINDS.items()) + ".",
    )
    parser.add_argument("--operations", type=int, default=4, help="longest program (%(default)s)")
    parser.add_argument("--kinds", default=EIGHT_KINDS, help="letters, see below (%(default)s)")
    parser.add_argument("--tick", type=int, default=1, help="distance of stamps (%(default)s)")
    parser.add_argument("--no-ties", action="store_true", help="no two equal stamps")
    args = parser.parse_args()
    started = monotonic()
    explorer = Explorer(args.kinds, args.tick, ties=not args.no_ties, progress=10)
    coverage = explorer.explore(args.operations)
    print(f"{coverage}, 0 differences, {monotonic() - started:.0f} s")  # noqa: T201 - a command


if __name__ == "__main__":
    main()
