"""The request log: a line of JSON for each request that has ended, without texts unless they are asked for."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mvjax.errors import UserError

if TYPE_CHECKING:
    from mvjax.engine.request import TokenUpdate
    from mvjax.engine.result import Result
    from mvjax.engine.stats import EngineStats


@dataclass
class Pending:
    """A request that has not ended."""

    request_id: str
    prompt_tokens: int
    submitted: float
    first: float | None = None
    """When its first token came."""


class RequestLog:
    """An observer of the driver that writes one line for each request when it has ended.

    A file that cannot be written any more is reported once on standard error; requests go on.

    Args:
        place: a file that is appended to, or "-" for standard output.
        texts: whether lines hold the answer's transcript.
        clock: seconds.

    Raises:
        UserError: the file cannot be opened.
    """

    def __init__(self, place: Path | str, *, texts: bool = False, clock: Callable[[], float] = time.perf_counter):
        self._texts, self._clock, self._place = texts, clock, place
        self._pending: dict[int, Pending] = {}
        self._file: IO[str] | None = sys.stdout
        if str(place) != "-":
            try:
                Path(place).parent.mkdir(parents=True, exist_ok=True)
                self._file = Path(place).open("a", encoding="utf-8", buffering=1)  # noqa: SIM115
            except OSError as error:
                raise UserError(f"{place}: the request log cannot be written: {error.strerror}") from None

    def submitted(self, ticket: int, request_id: str, prompt_tokens: int) -> None:
        self._pending[ticket] = Pending(request_id, prompt_tokens, self._clock())

    def tokens(self, ticket: int, updates: list[TokenUpdate]) -> None:
        pending = self._pending.get(ticket)
        if pending is not None and pending.first is None and updates:
            pending.first = self._clock()

    def ended(self, ticket: int, result: Result | None, error: Exception | None) -> None:
        pending = self._pending.pop(ticket, None)
        if pending is not None:
            self._write(record(pending, result, error, self._clock(), self._texts))

    def stay(self, stats: EngineStats, seconds: float) -> None:
        pass

    def close(self) -> None:
        """Close the file."""
        if self._file is not None and self._file is not sys.stdout:
            self._file.close()
        self._file = None

    def _write(self, entry: dict[str, Any]) -> None:
        if self._file is None:
            return
        try:
            print(json.dumps(entry, ensure_ascii=False), file=self._file, flush=True)
        except OSError as error:
            with contextlib.suppress(OSError):  # Closing would write what is left.
                self.close()
            self._file = None
            print(f"warning: {self._place}: no more lines of requests: {error.strerror}", file=sys.stderr)


def record(pending: Pending, result: Result | None, error: Exception | None, now: float, texts: bool) -> dict[str, Any]:
    """What is written of a request. Seconds count from its call."""
    error = error or (result.error if result is not None else None)
    entry: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request_id": pending.request_id,
        "reason": result.reason if result is not None else "failed",
        "prompt_tokens": pending.prompt_tokens,
        "seconds": round(now - pending.submitted, 6),
        "first_token": None if pending.first is None else round(pending.first - pending.submitted, 6),
    }
    if result is not None:
        entry |= {
            "new_tokens": result.new_tokens,
            "critical_path": result.critical_path,
            "degree": round(result.degree, 4),
            "found": result.found,
            "cut": len(result.cuts),
            "abandoned": result.abandoned,
            "barred": result.barred,
            "queued": round(result.timings.queued, 6),
            "prefill": round(result.timings.prefill, 6),
            "decode": round(result.timings.decode, 6),
        }
        if texts:
            entry["text"] = result.text
    if error is not None:
        entry["error"] = " ".join(f"{type(error).__name__}: {error}".split())
    return entry
