"""What a text is, with the runners-up, and on request the words that made it so."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.messages import Answer, Explanation, NoAnswer, Question, WordWeight
from worker.classify.halving import halved
from worker.classify.model import Model

_WORDS: Final = 10
"""Words for and words against that an explanation names, each at most."""

Probabilities = NDArray[np.float64]


def answer(model: Model, questions: Sequence[Question]) -> list[list[Answer | NoAnswer]]:
    """Answer all questions, by one matrix product for all texts; a list for each question."""
    found = iter(_probabilities(model, [each for one in questions for each in one["texts"]]))
    return [[_answer(model, one, text, next(found)) for text in one["texts"]] for one in questions]


def _probabilities(model: Model, texts: Sequence[str]) -> list[Probabilities | Exception]:
    """Return the probability of each category for each text, or what the text made it raise."""
    return halved(lambda some: [*model.probabilities(some)], texts, lambda error: error)


def _answer(
    model: Model, question: Question, text: str, found: Probabilities | Exception
) -> Answer | NoAnswer:
    if isinstance(found, Exception):
        return {"error": type(found).__name__}
    ranked = np.argsort(-found, kind="stable")[: question["top"]]  # of equal ones the first
    answer: Answer = {
        "category": model.categories[ranked[0]],
        "confidence": float(found[ranked[0]]),
        "scores": [{"category": model.categories[i], "score": float(found[i])} for i in ranked],
        "model_version": model.version,
    }
    if question["explain"]:
        answer["explanation"] = explain(model, text, int(ranked[0]))
    return answer


def explain(model: Model, text: str, category: int) -> Explanation:
    """Return the words of a text that speak most for and against a category.

    The linear score of a category is the sum over the text's known words of tf-idf value times
    coefficient, plus the category's bias. Each such product is a word's weight. The coefficients
    of a word have the mean 0: so above 0 is more for this category than for the average one.
    """
    row = model.vectoriser.transform([text])
    weights = row.data.astype(np.float64) * model.weights[row.indices, category]
    order = np.argsort(weights, kind="stable")
    terms = [model.vectoriser.terms[column] for column in row.indices.tolist()]
    opposing = [i for i in order[:_WORDS] if weights[i] < 0]
    supporting = [i for i in order[::-1][:_WORDS] if weights[i] > 0]
    bias = float(model.bias[category])
    named = float(weights[opposing].sum() + weights[supporting].sum())
    return {
        "supporting": list(_words(terms, weights, supporting)),
        "opposing": list(_words(terms, weights, opposing)),
        "other_words": float(weights.sum()) - named,
        "bias": bias,
        "total": float(weights.sum()) + bias,
    }


def _words(
    terms: Sequence[str], weights: NDArray[np.float64], places: Sequence[int]
) -> Iterator[WordWeight]:
    for place in places:
        yield {"word": terms[place], "weight": float(weights[place])}
