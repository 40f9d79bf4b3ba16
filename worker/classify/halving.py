"""Classifying many texts at once, of which some may be more than the model can bear."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog

from shared.decide import Prediction
from worker.classify.model import Model

FoundT = TypeVar("FoundT")

logger = structlog.get_logger(__name__)


def classify(model: Model, contents: Sequence[str]) -> list[Prediction]:
    """Classify many texts at once; halve them around one that the model cannot bear.

    Returns:
        A prediction for each text, one with an error in place of a category where there is none.
    """

    def predict(some: Sequence[str]) -> list[Prediction]:
        found = model.classify(some)
        return [Prediction(each.category, each.confidence, model.version) for each in found]

    return halved(predict, contents, lambda error: _failure(model, error))


def halved(
    work: Callable[[Sequence[str]], list[FoundT]],
    contents: Sequence[str],
    failed: Callable[[Exception], FoundT],
) -> list[FoundT]:
    """Return what `work` finds for each text, by as few calls as the texts allow.

    Args:
        work: for many texts at once; raises if it cannot bear one of them.
        contents: the texts.
        failed: what stands for a text that `work` cannot bear alone.

    Raises:
        MemoryError: there is not enough of it.
    """
    if not contents:
        return []
    try:
        return [*work(contents)]
    except Exception as error:  # the text is at fault, whatever it made the model raise
        if isinstance(error, MemoryError):
            raise
        if len(contents) == 1:
            # The text of the error may hold the document's: it goes with the document only.
            logger.error("document cannot be classified", error=type(error).__name__)
            return [failed(error)]
        middle = len(contents) // 2
        first, second = contents[:middle], contents[middle:]
        return halved(work, first, failed) + halved(work, second, failed)


def _failure(model: Model, error: Exception) -> Prediction:
    problem = {
        "type": "/problems/not-classified",
        "title": "The document could not be classified",
        "detail": f"{type(error).__name__}: {error}"[:500],
    }
    return Prediction(None, None, model.version, problem)
