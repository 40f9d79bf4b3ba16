"""What a publisher has promised: the numbers of its messages and of the documents in them."""

from dataclasses import dataclass
from threading import Lock
from uuid import UUID

from shared.messages import Envelope


@dataclass(frozen=True, slots=True)
class Mark:
    """What a producer says of itself, written down every second and at shutdown.

    Attributes:
        producer_id: the producer.
        seq: the last number it gave.
        through: the documents given to its messages up to that number, confirmed or not.
        voids: (number, documents) of each message whose publish failed since the last mark.
        pending: (number, documents) of each message whose publish was under way: neither
            confirmed nor failed, so that nobody was promised it yet.
        closed: whether the producer has ended and numbers nothing more.
    """

    producer_id: UUID
    seq: int
    through: int
    voids: tuple[tuple[int, int], ...]
    pending: tuple[tuple[int, int], ...] = ()
    closed: bool = False


class Account:
    """Numbers a producer's messages 1, 2, 3 … and remembers which were void.

    A void message was refused or its confirm never came: nobody was promised its documents. It
    may arrive all the same; then it counts as accepted.

    Attributes:
        producer_id: the producer.
    """

    def __init__(self, producer_id: UUID) -> None:
        self.producer_id = producer_id
        self._seq = 0
        self._through = 0
        self._voids: list[tuple[int, int]] = []
        self._pending: dict[int, int] = {}
        self._lock = Lock()

    def number(self, documents: int) -> Envelope:
        """Give the next message, of `documents` documents, its number."""
        with self._lock:
            self._seq += 1
            self._through += documents
            self._pending[self._seq] = documents
            return Envelope(self.producer_id, self._seq, documents, self._through)

    def confirm(self, envelope: Envelope) -> None:
        """Remember that `envelope` is safe, before anybody is told so."""
        with self._lock:
            self._pending.pop(envelope.seq, None)

    def void(self, envelope: Envelope) -> None:
        """Remember that publishing `envelope` failed."""
        with self._lock:
            self._pending.pop(envelope.seq, None)
            self._voids.append((envelope.seq, envelope.documents))

    def mark(self, *, closed: bool = False) -> Mark:
        """Return the mark to write now. Its voids leave with it: see `unwritten`."""
        with self._lock:
            voids, self._voids = tuple(self._voids), []
            pending = tuple(self._pending.items())
            return Mark(self.producer_id, self._seq, self._through, voids, pending, closed)

    def unwritten(self, mark: Mark) -> None:
        """Take back the voids of a mark that could not be written."""
        with self._lock:
            self._voids[:0] = mark.voids
