"""The account and the categories."""

from pydantic import BaseModel, Field


class LedgerOut(BaseModel):
    """What was accepted and what became of it, counted in documents, from one snapshot.

    `accepted = stored + unchanged + superseded + refused + failed + dead + in_flight`.
    """

    accepted: int
    stored: int = Field(description="created or replaced")
    unchanged: int = Field(description="sent again with the same content and metadata")
    superseded: int = Field(description="a newer write of the same document was there first")
    refused: int = Field(description="a condition of the write did not hold")
    failed: int = Field(description="stored, but could not be classified")
    dead: int = Field(description="could not be processed")
    in_flight: int = Field(description="accepted, not processed yet")
    void: int = Field(description="publishing failed, so nobody was told that they were accepted")


class CategoryOut(BaseModel):
    """A category and how many stored documents it has."""

    category: str
    documents: int


class CategoriesOut(BaseModel):
    """All categories that documents have, the largest first."""

    data: list[CategoryOut]
