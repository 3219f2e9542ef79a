"""What routes say of their answers in /openapi.json."""

from __future__ import annotations

from typing import Any

from mvjax.serving.answers import Error

MEANING = {
    400: "Bad request: what is wrong, with the numbers",
    401: "No key, or a wrong one",
    404: "No such model",
    413: "The body is too long",
    429: "The queue is full: try again after `Retry-After` seconds",
    499: "The client went away",
    500: "The server failed",
    503: "The server shuts down, or the engine makes no progress",
}

EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
}
"""An event of a stream. Its data are JSON, or [DONE]."""

Documented = dict[int | str, dict[str, Any]]


def documented(answer: Any, *statuses: int, stream: bool = False) -> Documented:
    """Responses of a route.

    Args:
        answer: model of a good one.
        statuses: of errors, beside 401 and 500.
        stream: whether it may be a stream of events instead.
    """
    found: Documented = {200: {"model": answer, "description": "The answer"}}
    if stream:
        found[200]["content"] = {"text/event-stream": {"schema": EVENT}}
    for status in sorted({401, 500, *statuses}):
        found[status] = {"model": Error, "description": MEANING[status]}
    return found


GENERATES = (400, 404, 413, 429, 503)
READS = (400, 404, 413)
