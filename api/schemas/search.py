"""What is searched for in documents, and what a search answers."""

from collections.abc import Sequence
from typing import Annotated, Final, Self

from pydantic import AfterValidator, BaseModel, Field

from api.schemas.document import DocumentOut, no_nul
from shared.store.search import MAX_CANDIDATES, Found, RankedPage

MAX_QUERY_LENGTH: Final = 500

Words = Annotated[str, Field(min_length=1, max_length=MAX_QUERY_LENGTH), AfterValidator(no_nul)]
"""What people write into a search box."""


class FoundOut(DocumentOut):
    """A stored document that fits a search."""

    rank: float = Field(description="how well it fits, greater is better", examples=[0.0607])
    snippet: str = Field(
        description="one or two places of the text as HTML: escaped, words that fit in `<mark>`",
        examples=["The <mark>shuttle</mark> launch was delayed by <mark>weather</mark> again."],
    )

    @classmethod
    def found(cls, hit: Found) -> Self:
        """Return what was found."""
        document = DocumentOut.of(hit.document)
        return cls(**dict(document), rank=hit.rank, snippet=hit.snippet)


class SearchPageOut(BaseModel):
    """A page of the documents that fit a search, the best first."""

    data: Sequence[FoundOut]
    next_cursor: str | None = Field(description="pass it as `cursor` to get the next page")
    has_more: bool
    ranked_over: int = Field(
        description=f"how many documents were ranked, at most {MAX_CANDIDATES:,}: the newest of"
        " those that fit",
        examples=[593],
    )
    exact: bool = Field(
        description="true: no others fit. false: more may fit, at least as many as were ranked do"
    )

    @classmethod
    def of(cls, page: RankedPage) -> Self:
        """Return the page that the store found."""
        return cls(
            data=[FoundOut.found(each) for each in page.found],
            next_cursor=page.next and page.next.encode(),
            has_more=page.next is not None,
            ranked_over=page.ranked,
            exact=page.exact,
        )
