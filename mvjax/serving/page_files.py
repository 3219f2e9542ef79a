"""The page at `/`: its files, and what a browser may do with them."""

from __future__ import annotations

from importlib import resources

from fastapi import APIRouter
from fastapi.responses import Response

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # Text cannot become HTML, not even by mistake.
    ]
)
"""What the page may load and do: its own files and its own server, nothing else."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
"""By ending."""


def page_files() -> dict[str, bytes]:
    """Name -> content."""
    folder = resources.files("mvjax.serving") / "page"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name.rpartition(".")[2] in TYPES}


def page_router() -> APIRouter:
    """GET / and GET /page/NAME. They hold no data: mount them without the API key, which the page asks for."""
    router, files = APIRouter(), page_files()

    def served(name: str) -> Response:
        if name not in files:
            return Response("there is no such file\n", 404, media_type="text/plain")
        return Response(files[name], headers=HEADERS, media_type=TYPES[name.rpartition(".")[2]])

    @router.get("/", include_in_schema=False)
    async def index() -> Response:
        return served("index.html")

    @router.get("/page/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        return served(name)

    return router
