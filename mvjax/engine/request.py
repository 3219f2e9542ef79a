"""A request on the host: what was asked for, how far it is, its new tokens, its result."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from mvjax.engine import state as st
from mvjax.engine.kv_cache import Preempted
from mvjax.engine.limits import UNLIMITED, Limits, Mode
from mvjax.engine.logprobs import LogProbs
from mvjax.engine.prompt import Prompt
from mvjax.engine.record import FORK, ORIGIN, PATHS, TOKEN, Record
from mvjax.engine.result import Result, Timings, make_result, stream_record
from mvjax.engine.sampling import key_of, on_device
from mvjax.engine.sampling_params import SamplingParams
from mvjax.engine.token_edits import token_edits

EXPIRED = {"cancelled": "deadline"}
RESUMING_STEPS = 8
"""A request that comes back has pages for at least twice this number of steps with all branches."""


def _scalar(value: int) -> Any:
    """A whole number for the device."""
    return np.int32(value)


class TokenUpdate(NamedTuple):
    """New tokens of one branch, for streaming. Numbers are the request's own: 0 the root, then in order of forks."""

    request: int
    segment: int
    parent: int
    """Segment that holds the branch's block; -1 for the root."""
    tokens: list[int]
    logprobs: LogProbs | None = None
    """Of the tokens, as in `Result.logprobs`."""


@dataclasses.dataclass(eq=False)
class Request:
    """A request from its arrival to its result."""

    number: int
    """Its number."""
    prompt: Prompt
    limits: Limits
    sampling: SamplingParams
    mode: Mode
    cancelled: bool = False
    """The caller wants it to end. Set by any thread, read once a step."""
    dropped: bool = False
    """Nobody waits for its answer: cancelled, it leaves without being wound up."""
    cancel_applied: bool = False
    """The device knows of that."""
    error: Exception | None = None
    """Why it failed."""
    deadline: float | None = None
    """When it is to end at the latest, as `time.perf_counter` counts; None: it has the time that it takes."""
    expired: bool = False
    """It was cancelled because its deadline had passed."""
    prefilled: int = 0
    """Tokens of the prompt whose keys and values are in their slots."""
    found: int = 0
    """Of these, how many were found in pages of others when it was admitted."""
    page_keys: list[bytes] | None = None
    """Keys of the full pages of its prompt, see `PrefixCache`."""
    preemptions: int = 0
    """Times that it has left the device for want of pages."""
    overtaken: int = 0
    """Requests that began while it waited to come back."""
    record: Record = dataclasses.field(default_factory=Record)
    """What the loop has fed of it since it began, or began anew."""
    streamed: int = 1
    """Rows of the record whose tokens `token_updates` has returned; the first is the prompt's last token."""
    counted: int = 1
    """Rows of the record that `count_new` has counted, alike."""
    parents: dict[int, int] = dataclasses.field(default_factory=lambda: {0: -1})
    """Parent of each segment number seen so far."""
    preempted: Preempted | None = None
    """What it was when others needed its pages."""
    submitted: float = dataclasses.field(default_factory=time.perf_counter)
    admitted: float = 0.0
    """When its prefill began; 0: it has not begun."""
    started: float = 0.0
    """When its prompt had been prefilled and its root started; 0: it has not, or is to begin anew."""
    begun: bool = False
    """It has started at least once: it may have told tokens."""
    compiled: tuple[float, float] = (0.0, 0.0)
    """Seconds that the engine had spent on compiling when the request was admitted, and when it started."""

    @property
    def ends_at_once(self) -> bool:
        """It is cancelled and there is nothing to wind up."""
        return self.cancelled and (self.dropped or not self.begun)

    def begin_anew(self) -> None:
        """Forget what was on the device."""
        self.prefilled, self.found, self.started, self.preempted, self.record = 0, 0, 0.0, None, Record()

    @property
    def fed(self) -> int:
        """Prompt tokens that are prefilled; the last one is fed by the loop."""
        return len(self.prompt.tokens) - 1

    def resuming_slots(self, max_branches: int) -> int:
        """Slots that there must be pages for before it comes back: for some steps, twice as many each time."""
        assert self.preempted is not None
        ahead = max_branches * RESUMING_STEPS << min(self.preemptions, 16)
        return min(self.preempted.used + ahead, self.most_slots(max_branches))

    def most_slots(self, max_branches: int) -> int:
        """Slots that it can ever fill, spare ones of a step with this number of branches included."""
        return self.fed + 1 + self.limits.max_new_tokens + max_branches

    def settings(self, max_branches: int, cancelled: bool) -> st.Settings:
        """What the device must know of what the caller set; `max_branches`: those of a parallel request."""
        limits, sampling = self.limits, self.sampling
        return st.Settings(
            max_branches=_scalar(1 if self.mode == "sequential" else max_branches),
            max_path_tokens=_scalar(min(limits.max_path_tokens or UNLIMITED, UNLIMITED)),
            max_paths=_scalar(limits.max_paths),
            max_depth=_scalar(0 if self.mode == "autoregressive" else limits.max_depth),
            min_block_share=_scalar(limits.min_block_share),
            sampling=on_device(sampling),
            edits=token_edits(sampling),
            end_share=_scalar(-1 if sampling.ignore_eos else limits.max_new_tokens - sampling.min_tokens),
            wind_up=_scalar(st.CANCELLED if cancelled else 0),
        )

    def root(self) -> st.Root:
        """What its first branch starts from."""
        last = self.prompt.last_position
        return st.Root(
            token=_scalar(self.prompt.tokens[-1]),
            position=_scalar(last),
            fed=_scalar(self.fed),
            tokens_left=_scalar(self.limits.max_new_tokens),
            max_pos=_scalar(last + 1 + min(self.limits.max_positions or self.limits.max_new_tokens, UNLIMITED)),
            key=key_of(self.sampling.seed),
        )

    def take(self, fed_TC: Int32[np.ndarray, "T C"], used: int) -> None:
        """Keep what the loop has fed in a stay; what is known already, again, changes nothing.

        Args:
            fed_TC: rows of the record.
            used: slots in use behind the stay.
        """
        self.record = self.record.extended(used - self.fed - len(fed_TC), fed_TC)

    def count_new(self) -> int:
        """How many tokens are new since the last call. A request that began anew repeats nothing."""
        new = max(len(self.record) - self.counted, 0)
        self.counted += new
        return new

    def token_updates(self) -> list[TokenUpdate]:
        """New tokens of each branch since the last call, branches in order of their first new token. A request that
        began anew repeats nothing."""
        record, start = self.record, self.streamed
        if start >= len(record):
            return []
        by_segment: dict[int, list[int]] = {}
        for row, (origin, base, paths) in enumerate(record.rows_TC[start:, [ORIGIN, FORK, PATHS]].tolist()):
            by_segment.setdefault(origin, []).append(row)
            for path in range(base, base + paths):
                self.parents[path] = origin
        token_T, logprobs = record.rows_TC[start:, TOKEN], record.logprobs(start)

        def update(number: int, rows: list[int]) -> TokenUpdate:
            its = logprobs and logprobs.take(rows)
            return TokenUpdate(self.number, number, self.parents[number], token_T[rows].tolist(), its)

        updates = [update(number, rows) for number, rows in by_segment.items()]
        self.streamed = len(record)
        return updates

    def result(self, counts: st.Counts, compiled: float, tokenizer: Any) -> Result:
        """The result of a request that ended on the device.

        Args:
            compiled: seconds that the engine has spent on compiling so far.
        """
        decode = time.perf_counter() - self.started - (compiled - self.compiled[1])
        timings = Timings(
            queued=self.admitted - self.submitted,
            prefill=self.started - self.admitted - (self.compiled[1] - self.compiled[0]),
            decode=decode,
            compile=compiled - self.compiled[0],
            per_step=decode / max(int(counts.decode_steps), 1),
        )
        reason = st.REASONS[int(counts.reason)]
        stream = stream_record(self.record)
        return self._dated(
            make_result(self.number, self.prompt, stream, reason, counts, timings, tokenizer, found=self.found)
        )

    def _dated(self, result: Result) -> Result:
        """The result, "deadline" in place of "cancelled" where that was why."""
        if not self.expired:
            return result
        cuts = {segment: EXPIRED.get(cut, cut) for segment, cut in result.cuts.items()}
        return dataclasses.replace(result, reason=EXPIRED.get(result.reason, result.reason), cuts=cuts)

    def ended_off_device(self, tokenizer: Any) -> Result:
        """The result of a request that failed (see `error`), was dropped, or was cancelled before it began: no
        tokens."""
        stream = stream_record(Record())
        timings = Timings(time.perf_counter() - self.submitted, 0.0, 0.0, 0.0, 0.0)
        reason = "failed" if self.error is not None else "cancelled"
        counts = st.Counts(*[_scalar(0)] * len(st.Counts._fields))
        return self._dated(
            make_result(self.number, self.prompt, stream, reason, counts, timings, tokenizer, self.error)
        )
