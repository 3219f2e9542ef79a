"""GET /v1/models and /v1/models/{name}."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request

from mvjax.serving.answers import Model, Models
from mvjax.serving.json_text import Json, StrictRoute
from mvjax.serving.routes.documented import documented
from mvjax.serving.service import Service

router = APIRouter(route_class=StrictRoute, tags=["models"])
STARTED = int(time.time())


@router.get("/v1/models", response_model=None, responses=documented(Models))
async def models(request: Request) -> Json:
    """The names of the served model."""
    service: Service = request.app.state.service
    return Json({"object": "list", "data": [described(service, name) for name in service.config.models]})


@router.get("/v1/models/{name:path}", response_model=None, responses=documented(Model, 400, 404))
async def model(name: str, request: Request) -> Json:
    """One of them."""
    service: Service = request.app.state.service
    return Json(described(service, service.model_name(name)))


def described(service: Service, name: str) -> dict[str, Any]:
    """A model."""
    most = service.driver.max_slots
    if service.driver.max_position is not None:
        most = min(most, service.driver.max_position)
    return {"id": name, "object": "model", "created": STARTED, "owned_by": "mvjax", "max_model_len": most}
