"""How Postroom is, for whoever operates it."""

from fastapi import APIRouter

from api.auth import Reader
from api.deps import ServicesDep
from api.schemas.status import StatusOut

router = APIRouter(prefix="/v1/status", tags=["health"])


# Whoever watches needs no key that can make keys: it tells nothing of documents, nor where
# anything is.
@router.get("", operation_id="getStatus")
async def get_status(services: ServicesDep, _: Reader) -> StatusOut:
    """Say how database, broker, queues, workers, search and disks are: always 200, in two seconds.

    What cannot be had says why. `/readyz` tells whether documents can be accepted at all.
    """
    return await services.watch.look()
