"""The key: who may ask."""

from __future__ import annotations

import hmac
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mvjax.serving.errors import ApiError

OPEN_PATHS = frozenset({"/health", "/"})
"""Answered without the key: whether the server lives, and the page, which asks for the key itself."""
OPEN_PREFIX = "/page/"
"""Files of the page."""


class RequireKey:
    """Middleware that refuses requests without the key, on every path but the open ones.

    Args:
        key: "" lets everybody in.
        open_paths: paths that need none.
    """

    def __init__(self, app: ASGIApp, key: str, open_paths: Collection[str] = OPEN_PATHS):
        self.app, self.open_paths = app, frozenset(open_paths)
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._key or self.is_open(scope["path"]) or self._right(Headers(scope=scope)):
            return await self.app(scope, receive, send)
        error = ApiError(401, "the API key is missing or wrong; send Authorization: Bearer KEY", code="invalid_api_key")
        error.headers = {**(error.headers or {}), "WWW-Authenticate": "Bearer"}
        await error.response()(scope, receive, send)

    def is_open(self, path: str) -> bool:
        """Whether a path needs no key."""
        return path in self.open_paths or path.startswith(OPEN_PREFIX)

    def _right(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = key.strip() if scheme.lower() == "bearer" else headers.get("api-key", "")
        return hmac.compare_digest(given.encode("latin-1"), self._key)  # In constant time; headers are bytes.


def key_of(headers: Headers) -> str:
    """What tells apart the callers of one server."""
    return headers.get("authorization", "")
