"""The life of a server: ready, signals, the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.types import Scope
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from mvjax.errors import UserError
from mvjax.serving.driver import Driver

logger = logging.getLogger("mvjax.serving")

LAST_SECONDS = 5
"""Seconds that connections get to end when no answer runs any more."""


class Connections:
    """The open connections by their clients' addresses, to cut one whose client does not read."""

    def __init__(self):
        self._transports: dict[tuple[str, int], asyncio.Transport] = {}

    def abort(self, scope: Scope) -> None:
        """Cut the connection of a request at once; what was not sent is thrown away."""
        transport = self._transports.get(tuple(scope.get("client") or ()))  # pyrefly: ignore
        if transport is not None:
            transport.abort()

    def protocol(self) -> type[asyncio.Protocol]:
        """The class of uvicorn's connections, those of this server noted here."""
        transports = self._transports

        class Noted(AutoHTTPProtocol):  # pyrefly: ignore
            client: Any

            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                transports[self.client] = transport

            def connection_lost(self, exc: Exception | None) -> None:
                transports.pop(self.client, None)
                super().connection_lost(exc)

        return Noted


class Server(uvicorn.Server):
    """Serves an app until a signal comes.

    At the first SIGTERM or SIGINT no new requests are taken, answers that run go on for `drain` seconds at most and are
    wound up then. A second signal ends everything at once.

    Args:
        closing: called when no answer runs any more, to end streams that would go on for ever.
    """

    def __init__(
        self,
        app: FastAPI,
        driver: Driver,
        connections: Connections,
        drain: float,
        closing: Callable[[], object] = lambda: None,
    ):
        config = uvicorn.Config(
            app,
            http=connections.protocol(),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # They would change the addresses that connections are known by.
            server_header=False,
            timeout_graceful_shutdown=LAST_SECONDS,
        )
        super().__init__(config)
        self.app, self.driver, self.drain, self.closing = app, driver, drain, closing
        self.signals = 0
        self.ready: Callable[[], object] = lambda: None
        """Called when it listens."""
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.ready()

    def handle_exit(self, sig: int, frame: FrameType | None = None) -> None:
        """A signal has come."""
        self.signals += 1
        self.app.state.draining = True
        if self.signals == 1:
            logger.warning("%s: the server ends when its answers have", signal.Signals(sig).name)
            threading.Thread(target=self._drain, name="mvjax drain", daemon=True).start()
        else:
            self.should_exit = self.force_exit = True

    def _drain(self) -> None:
        if not self.driver.drain(self.drain):
            logger.warning("answers that had not ended after %g seconds were wound up", self.drain)
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # A second signal has ended it.
                self._loop.call_soon_threadsafe(self.closing)
        self.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """A socket on an address; it refuses connections until a server listens. Port 0: any that is free.

    Raises:
        UserError: the address is taken or is none of this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        found = socket.socket(family[0], socket.SOCK_STREAM)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(family[4])
        except OSError:
            found.close()
            raise
    except OSError as error:
        raise UserError(f"{host}:{port}: {error.strerror or error}; choose another --host or --port") from None
    return found
