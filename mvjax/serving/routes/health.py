"""GET /health, /version and /metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from mvjax.serving.answers import Health, Version
from mvjax.serving.errors import SHUTS_DOWN, ApiError
from mvjax.serving.json_text import Json, StrictRoute
from mvjax.serving.routes.documented import documented
from mvjax.version import __version__

router = APIRouter(route_class=StrictRoute, tags=["server"])


@router.get("/health", response_model=None, responses=documented(Health, 503))
async def health(request: Request) -> Json:
    """Whether requests are taken and the engine makes progress."""
    if request.app.state.draining:
        raise ApiError(503, SHUTS_DOWN, code="shutting_down")
    if not request.app.state.service.driver.healthy:
        raise ApiError(503, "the engine makes no progress", code="unhealthy")
    return Json({"status": "ok"})


@router.get("/version", response_model=None, responses=documented(Version))
async def version() -> Json:
    """Of mvjax."""
    return Json({"version": __version__})


@router.get(
    "/metrics",
    response_model=None,
    responses={**documented(None, 404), 200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """For Prometheus."""
    found = request.app.state.metrics
    if found is None:
        raise ApiError(404, "this server keeps no metrics")
    return Response(found.page(), media_type="text/plain; version=0.0.4; charset=utf-8")
