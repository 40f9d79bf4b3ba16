import math
from threading import Thread

import numpy as np
import pytest

from worker.classify.model import Calibration, Model, Prediction

ODD = {
    "no text": "",
    "punctuation": "?!… -- \n\t;;",
    "unknown words": "zyx wvu",
    "one letter, 1 MiB": "a" * 2**20,
    "one word, 1 MiB": "soil " * (2**20 // 5),
    "emoji and signs": "🙂🙃 ﷽ \u202e soil \ufeff",
    "a lone surrogate": "soil \ud800",
    "another script": "土壌 と 種",
}


def test_classifies_by_the_words(model: Model) -> None:
    texts = ["Soil, SEED and rose", "whisk the broth", "chisel & clamp"]
    assert [p.category for p in model.classify(texts)] == ["garden", "kitchen", "workshop"]


def test_nothing_gives_nothing(model: Model) -> None:
    assert model.classify([]) == []


@pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())
def test_odd_texts_get_a_finite_confidence(model: Model, text: str) -> None:
    (prediction,) = model.classify([text])
    assert prediction.category in model.categories
    assert 0 < prediction.confidence <= 1


def test_texts_without_a_known_word_get_a_low_confidence(model: Model) -> None:
    predictions = model.classify(["", "?!", "zyx wvu", "a" * 2**20])
    assert len(set(predictions)) == 1
    assert predictions[0].confidence < 0.5


def test_a_text_is_classified_alike_alone_and_among_others(model: Model) -> None:
    texts = [*ODD.values(), "rose and broth", "drill the oven", "seed"]
    alone = [model.classify([text])[0] for text in texts]
    among = model.classify(texts)
    assert [p.category for p in among] == [p.category for p in alone]
    np.testing.assert_allclose([p.confidence for p in among], [p.confidence for p in alone])


def test_probabilities_sum_to_one_and_the_prediction_is_their_maximum(model: Model) -> None:
    texts = [*ODD.values(), "rose and broth"]
    probabilities = model.probabilities(texts)
    assert probabilities.shape == (len(texts), 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert model.classify(texts) == [
        Prediction(model.categories[row.argmax()], row.max()) for row in probabilities
    ]


def test_threads_may_share_a_model(model: Model) -> None:
    texts = ["soil and seed", "whisk the broth"] * 50
    expected = model.classify(texts)
    got: list[list[Prediction]] = []
    threads = [Thread(target=lambda: got.append(model.classify(texts))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [expected] * 4


def test_calibration_mixes_two_softmaxes() -> None:
    scores = np.array([[math.log(8), 0.0, 0.0]])
    mixed = Calibration(flat_share=0.25, flat_scale=1 / 3).probabilities(scores)
    np.testing.assert_allclose(mixed, [[0.725, 0.1375, 0.1375]])


def test_calibration_survives_huge_scores() -> None:
    mixed = Calibration(0.1, 0.5).probabilities(np.array([[1e6, -1e6], [0.0, 0.0]]))
    np.testing.assert_allclose(mixed, [[1.0, 0.0], [0.5, 0.5]])
