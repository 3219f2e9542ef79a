"""One request as the live feed shows it: its branches, how far they are, and how they ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mvjax.serving.branches import BlockPaths, Branches, Run, Segment

if TYPE_CHECKING:
    from mvjax.engine.request import TokenUpdate
    from mvjax.engine.result import Result

Event = tuple[str, dict[str, Any]]


class LiveRequest:
    """A request from its arrival on.

    Attributes:
        id: the request's id, as its response's header has it.
        pending: new tokens that nobody has looked at.
        running: it has not ended.
        told_end: the event of its end is out.
        tokens, critical_path: made so far, as of the last look.
    """

    def __init__(self, request_id: str, prompt_tokens: int):
        self.id, self.prompt_tokens = request_id, prompt_tokens
        self.pending: list[TokenUpdate] = []
        self.running, self.told_end = True, False
        self.tokens = self.critical_path = 0
        self._final: tuple[int, int] | None = None
        """Tokens and critical path of its result."""
        self._branches: Branches | None = None
        self._firsts: dict[str, int] = {"": 1}
        """Positions of the first tokens, by address."""
        self._cut_numbers: dict[int, str] = {}
        """Why branches were cut, by their number in the transcript."""
        self._reason, self._abandoned = "failed", 0
        self._error: str | None = None

    @property
    def started(self) -> bool:
        """It has made tokens."""
        return bool(self.tokens or self.pending)

    # Under the feed's lock.

    def hear(self, updates: list[TokenUpdate]) -> None:
        """New tokens. Their log-probabilities are not kept."""
        self.pending += [update._replace(logprobs=None) for update in updates]

    def end(self, result: Result | None, error: Exception | None) -> None:
        """It has ended. What is shown of a result is kept, not the result: that is large."""
        self.running = False
        if result is not None:
            self._reason, self._abandoned, self._cut_numbers = result.reason, result.abandoned, dict(result.cuts)
            self._final = result.new_tokens, result.critical_path
            error = error or result.error
        if error is not None:
            self._error = f"{type(error).__name__}: {' '.join(str(error).split())}"

    def take(self) -> list[TokenUpdate]:
        """New tokens since the last time."""
        taken, self.pending = self.pending, []
        return taken

    # On the event loop.

    def read(self, tokenizer: Any, updates: list[TokenUpdate], texts: bool) -> Iterator[Event]:
        """What new tokens, and an end, amount to."""
        if updates and tokenizer is not None:
            if self._branches is None:
                self._branches = Branches(tokenizer, tokenizer.tables(), 0)
            yield from self._told(self._branches.add(updates), texts)
        if updates:
            self._measure(updates)
            yield "progress", self._measures()
        if not self.running and not self.told_end:
            self.told_end = True
            if self._branches is not None:
                yield from self._told(self._branches.finish(), texts)
            yield "ended", self._ending()

    def state_before(self) -> dict[str, Any]:
        """It as it arrived."""
        return {"id": self.id, "state": "waiting", "prompt_tokens": self.prompt_tokens, **NOTHING, "segments": []}

    def shown(self, texts: bool) -> dict[str, Any]:
        """All that is known of it, as of the last `read`."""
        state = "ended" if self.told_end else "running" if self.tokens else "waiting"
        segments, cuts = self._branches.in_order() if self._branches is not None else (), self._cuts()
        return {
            "id": self.id,
            "state": state,
            "prompt_tokens": self.prompt_tokens,
            **(self._ending() if self.told_end else self._measures()),
            "segments": [self._segment(one, texts, cuts.get(one.address or "")) for one in segments],
        }

    def _told(self, events: list[Any], texts: bool) -> Iterator[Event]:
        for event in events:
            if event.event == "start":
                self._firsts[event.address] = event.position
            told = event._asdict()
            yield "branch", told if texts else told | {"text": ""}

    def _measure(self, updates: list[TokenUpdate]) -> None:
        self.tokens += sum(len(update.tokens) for update in updates)
        if self._branches is not None:
            self.critical_path = max(segment.position for segment in self._branches.segments.values())

    def _measures(self) -> dict[str, Any]:
        degree = self.tokens / self.critical_path if self.critical_path else 1.0
        return {"tokens": self.tokens, "critical_path": self.critical_path, "degree": round(degree, 2)}

    def _ending(self) -> dict[str, Any]:
        if self._final is not None:
            self.tokens, self.critical_path = self._final
        ending = {"cuts": self._cuts(), "abandoned": self._abandoned, "error": self._error}
        return {"reason": self._reason, **self._measures(), **ending}

    def _cuts(self) -> dict[str, str]:
        """Address -> why the branch was cut."""
        in_order = self._branches.in_order() if self._branches is not None else ()
        addresses = {number: segment.address or "" for number, segment in enumerate(in_order)}
        return {addresses.get(number, ""): why for number, why in self._cut_numbers.items()}

    def _segment(self, segment: Segment, texts: bool, cut: str | None) -> dict[str, Any]:
        address, parts = segment.address or "", [""]
        blocks = []
        for item in segment.items:
            if isinstance(item, Run):
                parts[-1] += item.text
            elif isinstance(item, BlockPaths):
                blocks.append({"ordinal": item.ordinal, "count": item.count, "reduced": item.reduced})
                parts.append("")
        waits = bool(blocks) and not blocks[-1]["reduced"]
        return {
            "address": address,
            "first": self._firsts.get(address, 1),
            "last": segment.position,
            "tokens": segment.tokens,
            "state": "ended" if segment.ended else "waiting" if waits else "running",
            "cut": cut,
            "abandoned": segment.abandoned,
            "texts": parts if texts else [""] * len(parts),
            "blocks": blocks,
        }


NOTHING = {"tokens": 0, "critical_path": 0, "degree": 1.0}
"""Measures of a request that has made no token."""
