"""What a text is and why: against the model's own arithmetic."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.messages import Answer, Explanation, Question
from worker.classify.explain import answer, explain
from worker.classify.model import Model

TEXT = "Soil and seed: the lathe, today. SOIL! zyxwv"


def question(*texts: str, top: int = 5, explain: bool = False) -> Question:
    return {"texts": list(texts), "top": top, "explain": explain}


def only(model: Model, text: str, *, top: int = 5, explain: bool = False) -> Answer:
    ((found,),) = answer(model, [question(text, top=top, explain=explain)])
    assert "error" not in found
    return found


def weights(explanation: Explanation) -> dict[str, float]:
    named = explanation["supporting"] + explanation["opposing"]
    return {each["word"]: each["weight"] for each in named}


def test_each_question_gets_its_own_answers_in_order(model: Model) -> None:
    texts = ["whisk the broth", "soil", "chisel"]
    found = answer(model, [question(*texts[:2]), question(), question(texts[2])])
    assert [len(each) for each in found] == [2, 0, 1]
    predictions = model.classify(texts)
    for each, prediction in zip([*found[0], *found[2]], predictions, strict=True):
        assert "error" not in each
        assert each["category"] == prediction.category
        assert each["confidence"] == pytest.approx(prediction.confidence)
        assert each["model_version"] == model.version
        assert "explanation" not in each


def test_scores_are_the_likeliest_categories_in_order(model: Model) -> None:
    every = only(model, TEXT)
    assert {each["category"] for each in every["scores"]} == set(model.categories)
    assert math.fsum(each["score"] for each in every["scores"]) == pytest.approx(1)
    assert all(a["score"] >= b["score"] for a, b in pairwise(every["scores"]))
    assert every["scores"][0] == {"category": every["category"], "score": every["confidence"]}
    assert only(model, TEXT, top=2)["scores"] == every["scores"][:2]


def test_of_equal_categories_the_first_is_predicted_as_the_model_does(model: Model) -> None:
    level = Model(
        "level", model.categories, model.vectoriser, model.weights * 0, model.bias * 0,
        model.calibration,
    )  # fmt: skip
    assert only(level, "soil")["category"] == level.classify(["soil"])[0].category
    assert [each["category"] for each in only(level, "soil")["scores"]] == list(model.categories)


def test_an_explanation_adds_up_to_the_linear_score(model: Model) -> None:
    found = only(model, TEXT, explain=True)
    explanation = found["explanation"]
    category = model.categories.index(found["category"])
    row = model.vectoriser.transform([TEXT]).toarray()[0]
    score = float(row @ model.weights[:, category] + model.bias[category])
    assert explanation["total"] == pytest.approx(score, rel=1e-5)
    assert explanation["bias"] == pytest.approx(float(model.bias[category]))
    parts = [*weights(explanation).values(), explanation["other_words"], explanation["bias"]]
    assert math.fsum(parts) == pytest.approx(explanation["total"])


def test_the_weights_are_tf_idf_times_coefficient_with_their_signs(model: Model) -> None:
    garden = model.categories.index("garden")
    explanation = explain(model, TEXT, garden)
    found = weights(explanation)
    row = model.vectoriser.transform([TEXT]).toarray()[0]
    for word, weight in found.items():
        column = model.vectoriser.columns[word]
        assert weight == pytest.approx(row[column] * model.weights[column, garden], rel=1e-5)
    assert {"soil", "seed"} <= {each["word"] for each in explanation["supporting"]}
    assert "lathe" in {each["word"] for each in explanation["opposing"]}
    assert "zyxwv" not in found
    for side, sign in ((explanation["supporting"], 1), (explanation["opposing"], -1)):
        assert all(sign * each["weight"] > 0 for each in side)
        sizes = [sign * each["weight"] for each in side]
        assert sizes == sorted(sizes, reverse=True)
    assert explanation["other_words"] == pytest.approx(0)


def test_the_ten_strongest_words_of_each_side_are_named(model: Model) -> None:
    text = " ".join(model.vectoriser.terms)
    explanation = explain(model, text, 0)
    row = model.vectoriser.transform([text]).toarray()[0].astype(np.float64)
    every = sorted(row * model.weights[:, 0])
    for side, strongest in (
        (explanation["opposing"], [each for each in every[:10] if each < 0]),
        (explanation["supporting"], [each for each in every[:-11:-1] if each > 0]),
    ):
        assert [each["weight"] for each in side] == pytest.approx(strongest, rel=1e-5)
    rest = explanation["total"] - explanation["bias"] - sum(weights(explanation).values())
    assert explanation["other_words"] == pytest.approx(rest)


@pytest.mark.parametrize("text", ["", "?!", "zyx wvu", "soil \ud800"])
def test_odd_texts_have_an_explanation(model: Model, text: str) -> None:
    found = only(model, text, explain=True)
    total = found["explanation"]["total"]
    parts = [*weights(found["explanation"]).values(), found["explanation"]["other_words"]]
    assert math.fsum([*parts, found["explanation"]["bias"]]) == pytest.approx(total)


def test_a_text_that_the_model_cannot_bear_has_no_answer_and_the_others_have(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    probabilities = Model.probabilities

    def fail(self: Model, texts: Sequence[str]) -> NDArray[np.float64]:
        if "odd" in texts:
            raise ValueError("odd")
        return probabilities(self, texts)

    monkeypatch.setattr(Model, "probabilities", fail)
    found = answer(model, [question("soil", "odd", "broth"), question("odd"), question("drill")])
    assert [[each.get("category", each) for each in some] for some in found] == [
        ["garden", {"error": "ValueError"}, "kitchen"],
        [{"error": "ValueError"}],
        ["workshop"],
    ]
