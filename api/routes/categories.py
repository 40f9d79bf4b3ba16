"""Categories: which there are, and how many documents each has."""

from fastapi import APIRouter

from api.auth import Reader
from api.deps import ServicesDep
from api.openapi import problems
from api.schemas.account import CategoriesOut, CategoryOut
from shared.store import ledger

router = APIRouter(prefix="/v1/categories", tags=["categories"])


@router.get("", operation_id="listCategories", responses=problems(503))
async def list_categories(services: ServicesDep, _: Reader) -> CategoriesOut:
    """List the categories of stored documents, the largest first."""
    counts = await services.database.run(lambda session: ledger.counts(session, "category"))
    data = [CategoryOut(category=key, documents=n) for key, n in counts.items()]
    return CategoriesOut(data=data)
