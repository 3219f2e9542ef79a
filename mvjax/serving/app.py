"""The app: routes, middleware and errors put together around a driver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware.cors import CORSMiddleware

from mvjax.serving import errors
from mvjax.serving.auth import OPEN_PATHS, RequireKey
from mvjax.serving.driver import Driver
from mvjax.serving.request_id import HEADER, RequestIds
from mvjax.serving.routes import chat, completions, health, models, responses, tokens
from mvjax.serving.service import Service
from mvjax.serving.settings import ServingConfig
from mvjax.serving.sse import Abort
from mvjax.version import __version__

ROUTERS = (chat.router, completions.router, responses.router, models.router, tokens.router, health.router)


def create_app(
    driver: Driver,
    config: ServingConfig | None = None,
    *,
    scorer: Any = None,
    metrics: Any = None,
    routers: Sequence[APIRouter] = (),
    abort: Abort = lambda scope: None,
) -> FastAPI:
    """The app of one served model.

    Args:
        driver: started; it is not stopped with the app.
        config: how requests are taken and answered.
        scorer: of prompts, for `echo` with `logprobs`.
        metrics: an observer with `page() -> bytes` for /metrics; None: there are none.
        routers: further routes, such as the page's. Paths that `auth` does not open need the key.
        abort: cuts the connection of a request, see `Connections`.
    """
    config = config or ServingConfig()

    # No pages with scripts of other hosts; the description itself is at /openapi.json.
    app = FastAPI(title="mvjax", version=__version__, docs_url=None, redoc_url=None)
    app.state.service = Service(driver, config, scorer)
    app.state.metrics, app.state.abort, app.state.draining = metrics, abort, False
    errors.install(app, config.retry_after)
    for router in (*ROUTERS, *routers):
        app.include_router(router)
    app.openapi = lambda: description(app)
    app.add_middleware(
        RequireKey, key=config.api_key, open_paths=OPEN_PATHS | ({"/metrics"} if config.open_metrics else set())
    )
    if config.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=[HEADER, "Retry-After"],
        )
    app.add_middleware(RequestIds)  # The outermost: every response has one.
    return app


def description(app: FastAPI) -> dict[str, Any]:
    """/openapi.json: as FastAPI makes it, but bad fields are answered with 400."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        for operations in schema["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                operation["security"] = [{"key": []}]
        schema["components"].setdefault("securitySchemes", {})["key"] = {"type": "http", "scheme": "bearer"}
        app.openapi_schema = schema
    return app.openapi_schema
