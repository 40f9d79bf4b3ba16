"""Classifying many texts at once, of which some may be more than the model can bear."""

from collections.abc import Sequence

import structlog

from shared.decide import Prediction
from worker.classify.model import Model

logger = structlog.get_logger(__name__)


def classify(model: Model, contents: Sequence[str]) -> list[Prediction]:
    """Classify many texts at once; halve them around one that the model cannot bear.

    Returns:
        A prediction for each text, one with an error in place of a category where there is none.
    """
    if not contents:
        return []
    try:
        predictions = model.classify(contents)
    except Exception as error:  # the text is at fault, whatever it made the model raise
        if isinstance(error, MemoryError):
            raise
        if len(contents) == 1:
            # The text of the error may hold the document's: it goes with the document only.
            logger.error("document cannot be classified", error=type(error).__name__)
            return [_failure(model, error)]
        middle = len(contents) // 2
        return classify(model, contents[:middle]) + classify(model, contents[middle:])
    return [Prediction(each.category, each.confidence, model.version) for each in predictions]


def _failure(model: Model, error: Exception) -> Prediction:
    problem = {
        "type": "/problems/not-classified",
        "title": "The document could not be classified",
        "detail": f"{type(error).__name__}: {error}"[:500],
    }
    return Prediction(None, None, model.version, problem)
