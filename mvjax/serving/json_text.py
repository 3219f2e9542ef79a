"""JSON in and out, strictly: NaN and Infinity neither come nor go, and nothing that comes is too long to read."""

from __future__ import annotations

import json
from typing import Any

from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response


def dumps(value: Any) -> str:
    """One line of JSON, in ASCII: line separators of Unicode would break streams for clients that split at them."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


class Json(Response):
    """A response of JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return dumps(content).encode()


class StrictRequest(Request):
    """A request whose body is JSON as its standard has it, and no longer than `most_body`."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            most = self.app.state.service.config.most_body
            chunks, size = [], 0
            async for chunk in self.stream():
                size += len(chunk)
                if size > most:
                    raise HTTPException(413, f"the body has more than {most} bytes")
                chunks.append(chunk)
            self._body = b"".join(chunks)
        return self._body

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            body = await self.body()
            try:
                self._json = json.loads(body, parse_constant=refused)
            except json.JSONDecodeError:
                raise
            except UnicodeDecodeError as error:
                raise json.JSONDecodeError("it is not UTF-8", "", error.start) from None
            except RecursionError:
                raise json.JSONDecodeError("it is nested too deeply", "", 0) from None
            except ValueError as error:  # of `refused`, or a number with thousands of digits
                raise json.JSONDecodeError(str(error).partition(";")[0], "", 0) from None
        return self._json


def refused(name: str) -> float:
    """NaN, Infinity and -Infinity are no JSON."""
    raise ValueError(f"{name} is no number of JSON")


class StrictRoute(APIRoute):
    """A route that reads its requests so."""

    def get_route_handler(self):
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(StrictRequest(request.scope, request.receive))

        return strict
