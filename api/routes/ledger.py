"""The ledger: whether all that was accepted is accounted for."""

from fastapi import APIRouter

from api.auth import Reader
from api.deps import ServicesDep
from api.openapi import problems
from api.schemas.account import LedgerOut

router = APIRouter(prefix="/v1/ledger", tags=["ledger"])


@router.get("", operation_id="getLedger", responses=problems(503))
async def get_ledger(services: ServicesDep, _: Reader) -> LedgerOut:
    """Return the account of all documents ever accepted, from one snapshot."""
    return await services.account()
