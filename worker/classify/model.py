"""A linear classifier of texts: one weight per word and category, calibrated probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from worker.classify.vectoriser import Vectoriser


@dataclass(frozen=True, slots=True)
class Prediction:
    """The likeliest category of one text, and the probability (0..1) that it is the right one."""

    category: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """From linear scores to probabilities: (1 - a)·softmax(z) + a·softmax(b·z), 0 < a, b < 1.

    Temperature scaling (Guo et al. 2017) with a second, flatter softmax mixed in. One temperature
    alone is too timid about close calls and too sure about clear ones: the right category is
    now and then one that no word of the text speaks for. The order of the categories stays.
    """

    flat_share: float
    flat_scale: float

    def probabilities(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return probabilities, shape (n, categories), rows summing to 1, for scores likewise."""
        flat = softmax(self.flat_scale * scores, axis=1)
        sharp = softmax(scores, axis=1)
        mixed: NDArray[np.float64] = (1 - self.flat_share) * sharp + self.flat_share * flat
        return mixed


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """What classifies: pure, without input or output, safe to share between threads.

    `weights` has the shape (V, categories): what a word speaks for (above 0) or against, with the
    mean over the categories 0; `bias` the shape (categories,).
    """

    version: str
    categories: tuple[str, ...]
    vectoriser: Vectoriser
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    calibration: Calibration

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the probability of each category for each text, shape (n, categories)."""
        scores = self.vectoriser.transform(texts) @ self.weights + self.bias
        return self.calibration.probabilities(scores.astype(np.float64))

    def classify(self, texts: Sequence[str]) -> list[Prediction]:
        """Return one prediction per text, in order, by one matrix product for all of them.

        A text without a known word gets the category that the bias favours, with the low
        confidence that belongs to it.
        """
        if not texts:
            return []
        probabilities = self.probabilities(texts)
        best = probabilities.argmax(axis=1).tolist()
        confidence = probabilities.max(axis=1).tolist()
        return [Prediction(self.categories[i], c) for i, c in zip(best, confidence, strict=True)]
