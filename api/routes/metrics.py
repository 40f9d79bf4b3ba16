"""Metrics, for Prometheus."""

from fastapi import APIRouter, Response

from api.deps import ServicesDep
from api.metrics import MEDIA_TYPE, render

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    operation_id="getMetrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(services: ServicesDep) -> Response:
    """Say how much is accepted, in flight and lost; without the database, less."""
    return Response(render(await services.state()), media_type=MEDIA_TYPE)
