"""Errors as OpenAI's clients read them: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from mvjax.engine.engine import QueueFull
from mvjax.errors import UserError
from mvjax.serving.driver import Broken, Draining
from mvjax.serving.fields.not_served import REASONS
from mvjax.serving.json_text import Json

logger = logging.getLogger("mvjax.serving")

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "unavailable_error",
}
"""Type of an error by its status; others below 500 are invalid requests, others above errors of the server."""
ENGINE_FAILED = "the engine failed while it answered, and begins anew; try again"
SHUTS_DOWN = "the server shuts down; try again"


class ApiError(HTTPException):
    """What a client is told.

    Args:
        status: of HTTP; a stream that has begun tells the rest in an event.
        param: the field that is wrong.
        code: a word for programs, such as context_length_exceeded.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None, **headers: str):
        super().__init__(status, message, {name.replace("_", "-"): value for name, value in headers.items()})
        self.param, self.code = param, code

    @property
    def body(self) -> dict[str, Any]:
        """As JSON."""
        other = "server_error" if self.status_code >= 500 else "invalid_request_error"
        kind = TYPES.get(self.status_code, other)
        return {"error": {"message": self.detail, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Json:
        """As a response."""
        return Json(self.body, self.status_code, self.headers)


def as_api_error(error: Exception, retry_after: int = 1) -> ApiError:
    """What to tell of any exception. Nothing of the inside of the server is told.

    Args:
        retry_after: seconds, where another try may do.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Broken):
        return ApiError(503, str(error), code="engine_failed", Retry_After=str(max(retry_after, 1)))
    if isinstance(error, Draining):
        return ApiError(503, SHUTS_DOWN, code="shutting_down", Retry_After=str(max(retry_after, 1)))
    if isinstance(error, QueueFull):
        return ApiError(429, str(error), code="queue_full", Retry_After=str(retry_after))
    if isinstance(error, UserError):
        return ApiError(400, str(error))
    if isinstance(error, RequestValidationError):
        return of_fields(error)
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, error.detail, **dict(error.headers or {}))
    return ApiError(500, "the server failed; its log says more", code="internal_error")


def of_fields(error: RequestValidationError) -> ApiError:
    """A body that is no JSON, or whose fields are wrong: 400 with the first of them and the reason."""
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not valid JSON: {first['ctx']['error']} at character {first['loc'][-1]}")
    where, *place = first["loc"]
    if where != "body":
        return ApiError(400, f"{'.'.join(map(str, first['loc']))}: {first['msg']}", param=str(first["loc"][-1]))
    if not isinstance(error.body, Mapping):
        return ApiError(400, "the body must be a JSON object, sent with Content-Type: application/json")
    found = [one for one in error.errors() if one["loc"][1:2] == first["loc"][1:2]]
    deepest = max(found, key=lambda one: len(steps(one["loc"][1:], error.body)))
    param = path(steps(deepest["loc"][1:], error.body))
    words = dict.fromkeys(one["msg"] for one in found if path(steps(one["loc"][1:], error.body)) == param)
    if deepest["type"] == "extra_forbidden":
        return ApiError(400, f"{param}: this server does not know this field", param=param, code="unknown_parameter")
    reason = REASONS.get(str(place[0])) if place else None
    message = "; or: ".join(words) + (f" ({reason})" if reason else "")
    return ApiError(400, f"{param}: {message}" if param else message, param=param or None)


def steps(loc: Sequence[int | str], body: Any) -> list[int | str]:
    """The keys and indices of a place in the body, without pydantic's names for the types that it tried there."""
    found: list[int | str] = []
    for step in loc:
        if isinstance(body, Mapping):
            inside = body.get(step) if isinstance(step, str) else None
            known = isinstance(step, str) and (step in body or step == loc[-1])
        else:
            known = isinstance(body, list) and isinstance(step, int)
            inside = body[step] if known and step < len(body) else None
        if known:
            found.append(step)
            body = inside
    return found


def path(places: Sequence[int | str]) -> str:
    """messages[0].content"""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in places)
    return text.removeprefix(".")


def install(app: FastAPI, retry_after: int) -> None:
    """Let an app answer all errors in this form."""

    async def told(request: Request, error: Exception) -> Json:
        return as_api_error(error, retry_after).response()

    for kind in (HTTPException, RequestValidationError, UserError, Exception):
        app.add_exception_handler(kind, told)
