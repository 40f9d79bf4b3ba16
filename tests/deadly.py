"""`python -m worker`, but with a classifier that some words are deadly to.

The seam is ours, the model's `classify`: so children die as they do of a real fault, while they
work on the one document that has the word.
"""

import os
import signal
from collections.abc import Sequence
from threading import Event

from worker.__main__ import main
from worker.classify.model import Model, Prediction

KILL, OOM, HANG = "deadly-kill", "deadly-memory", "deadly-hang"
_classify = Model.classify


def classify(self: Model, texts: Sequence[str]) -> list[Prediction]:
    """Classify, unless a text has one of the words."""
    for each in texts:
        if KILL in each:
            os.kill(os.getpid(), signal.SIGKILL)
        if OOM in each:
            raise MemoryError
        if HANG in each:
            Event().wait()
    return _classify(self, texts)


if __name__ == "__main__":
    Model.classify = classify  # type: ignore[method-assign]  # that is the point
    main()
