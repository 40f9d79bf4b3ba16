"""Classifying texts that are not stored."""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.document import Content
from api.schemas.whole import WHOLE

MAX_TEXTS: Final = 256
MAX_TOP: Final = 100

_TEXT: Final = "The shuttle will launch from the Cape on Monday."


class _Options(BaseModel):
    top: Annotated[int, WHOLE] = Field(
        5, ge=1, le=MAX_TOP, strict=True, description="categories that `scores` names at most"
    )
    explain: bool = Field(False, strict=True, description="say which words made it so")


class ClassifyTextIn(_Options):
    """One text to classify."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"content": _TEXT, "top": 2, "explain": True}},
    )

    content: Content = Field(description="the text, 1 character to 1 MiB of UTF-8")


class ClassifyTextsIn(_Options):
    """Several texts to classify."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"contents": [_TEXT, "Whisk the broth."], "top": 1}},
    )

    contents: Annotated[list[Content], Field(min_length=1, max_length=MAX_TEXTS)] = Field(
        description="the texts, each as `content`"
    )


class CategoryScoreOut(BaseModel):
    """A category, and the probability that the text is of it."""

    category: str
    score: float = Field(description="0 to 1; those of all categories add up to 1")


class WordWeightOut(BaseModel):
    """A word as the classifier sees it: in lower case, once for all its occurrences."""

    word: str
    weight: float = Field(
        description="the word's tf-idf value in this text times its coefficient for the category: "
        "above 0 it speaks for this category more than for the average one, below 0 less"
    )


class ExplanationOut(BaseModel):
    """Why a text has its category: the linear score, and what it is made of.

    All weights of `supporting` and `opposing`, `other_words` and `bias` add up to `total`. The
    category with the largest total is the predicted one; the confidence follows from the totals of
    all categories.
    """

    supporting: list[WordWeightOut] = Field(description="the words that speak most for it")
    opposing: list[WordWeightOut] = Field(description="the words that speak most against it")
    other_words: float = Field(description="the sum of the weights of all other known words")
    bias: float = Field(description="what the category has before any word is read")
    total: float = Field(description="the category's linear score")


class ClassificationOut(BaseModel):
    """What a text is."""

    category: str
    confidence: float = Field(description="the probability that this is right, 0 to 1")
    scores: list[CategoryScoreOut] = Field(description="the likeliest categories, the first first")
    model_version: str
    explanation: ExplanationOut | None = Field(None, description="with `explain` only")


_EXAMPLE: Final[dict[str, Any]] = {
    "results": [
        {
            "category": "sci.space",
            "confidence": 0.97,
            "scores": [
                {"category": "sci.space", "score": 0.97},
                {"category": "sci.med", "score": 0.004},
            ],
            "model_version": "20newsgroups-58170fc1",
            "explanation": {
                "supporting": [{"word": "shuttle", "weight": 2.9}],
                "opposing": [{"word": "monday", "weight": -0.2}],
                "other_words": 1.4,
                "bias": -0.3,
                "total": 3.8,
            },
        }
    ]
}


class ClassifiedOut(BaseModel):
    """What the texts are, in the order in which they were sent."""

    model_config = ConfigDict(json_schema_extra={"example": _EXAMPLE})

    results: list[ClassificationOut]
