"""A request on the host: what was asked for, how far it is, its new tokens, its result."""

from __future__ import annotations

import dataclasses
import time
from typing import NamedTuple

import numpy as np

from mvjax.engine import state as st
from mvjax.engine.kv_cache import Preempted
from mvjax.engine.limits import UNLIMITED, EngineConfig, Limits, Mode, SamplingParams
from mvjax.engine.prompt import Prompt, chunk_plan
from mvjax.engine.result import Result, Timings, stream_record, transcript_order
from mvjax.engine.sampling import on_device


class TokenUpdate(NamedTuple):
    """New tokens of one branch, for streaming. Numbers are the request's own: 0 the root, then in order of forks."""

    request: int
    segment: int
    parent: int
    """Segment that holds the branch's block; -1 for the root."""
    tokens: list[int]


@dataclasses.dataclass
class Request:
    """A request from its arrival to its result."""

    request: int
    """Its number."""
    prompt: Prompt
    limits: Limits
    sampling: SamplingParams
    mode: Mode
    submitted: float = dataclasses.field(default_factory=time.perf_counter)
    cancelled: bool = False
    """Somebody wants it to end."""
    cancel_told: bool = False
    """The device knows of that."""
    told: int = 0
    """Slots whose tokens `fresh_tokens` has returned, or that belong to the prompt."""
    parents: dict[int, int] = dataclasses.field(default_factory=lambda: {0: -1})
    """Parent of each segment number seen so far."""
    admitted: float = 0.0
    preempted: Preempted | None = None
    """What it was when others needed its pages."""
    started: float = 0.0
    """When its prompt had been prefilled."""
    compiled: tuple[float, float] = (0.0, 0.0)
    """Seconds that the engine had spent on compiling when the request was admitted, and when it started."""

    @property
    def fed(self) -> int:
        """Prompt tokens that are prefilled; the last one is fed by the loop."""
        return len(self.prompt.tokens) - 1

    def first_slots(self, config: EngineConfig) -> int:
        """Slots for the prompt, the padding of its last chunk (pages need not hold that), and the first step."""
        chunks = chunk_plan(self.fed, config.prefill_chunks)
        padded = chunks[-1][0] + chunks[-1][1] if chunks else 0
        return max(padded, self.fed + config.max_branches)

    def most_slots(self, rows: int) -> int:
        """Slots that it can ever fill, in steps of so many rows."""
        return self.fed + 1 + self.limits.max_new_tokens + rows

    def settings(self, rows: int) -> st.Settings:
        """What the device must know of the caller's wishes; `rows`: those of a parallel request."""
        limits = self.limits
        return st.Settings(
            max_branches=np.int32(1 if self.mode == "sequential" else rows),
            max_path_tokens=np.int32(min(limits.max_path_tokens or UNLIMITED, UNLIMITED)),
            max_paths=np.int32(limits.max_paths),
            max_depth=np.int32(0 if self.mode == "autoregressive" else limits.max_depth),
            min_block_share=np.int32(limits.min_block_share),
            sampling=on_device(self.sampling),
            wind_up=np.int32(st.CANCELLED if self.cancelled else 0),
        )

    def root(self) -> st.Root:
        """What its first branch starts from."""
        last = self.prompt.last_position
        return st.Root(
            token=np.int32(self.prompt.tokens[-1]),
            position=np.int32(last),
            fed=np.int32(self.fed),
            tokens_left=np.int32(self.limits.max_new_tokens),
            max_pos=np.int32(last + 1 + min(self.limits.max_positions or self.limits.max_new_tokens, UNLIMITED)),
            seed=np.uint32(self.sampling.seed),
        )

    def token_updates(self, record_SC: np.ndarray) -> list[TokenUpdate]:
        """New tokens of each branch since the last call, branches in order of their first new token.

        Args:
            record_SC: records of the slots in use.
        """
        new_TC = record_SC[self.told :]
        self.told = len(record_SC)
        by_segment: dict[int, list[int]] = {}
        for row in new_TC.tolist():
            origin, base = row[st.RECORD_ORIGIN], row[st.RECORD_FORK]
            by_segment.setdefault(origin, []).append(row[st.RECORD_TOKEN])
            for path in range(base, base + row[st.RECORD_PATHS]):
                self.parents[path] = origin
        return [
            TokenUpdate(self.request, number, self.parents[number], tokens) for number, tokens in by_segment.items()
        ]

    def result(self, record_SC, segment_S, counts: st.Counts, compiled: float, tokenizer) -> Result:
        """The result of a finished request.

        Args:
            record_SC, segment_S: records and segments of the slots in use.
            compiled: seconds that the engine has spent on compiling so far.
        """
        first = self.fed + 1
        # Copies, so that the result does not keep the whole stream's records alive.
        stream = stream_record(record_SC[first:].copy(), segment_S[first:].copy())
        order_T, segment_T, parent = transcript_order(stream)
        position_T, cut_T = stream.position[order_T], stream.cut[order_T]
        cuts = {int(segment_T[at]): st.REASONS[cut_T[at]] for at in np.flatnonzero(cut_T)}
        if counts.reason != st.STOP:
            cuts[0] = st.REASONS[counts.reason]
        decode = time.perf_counter() - self.started - (compiled - self.compiled[1])
        return Result(
            request=self.request,
            prompt_length=first,
            tokens=stream.token[order_T],
            written=stream.written[order_T],
            segment=segment_T,
            position=position_T,
            parent=parent,
            reason=st.REASONS[counts.reason],
            cuts=cuts,
            abandoned=counts.abandoned,
            barred=counts.barred,
            decode_steps=counts.decode_steps,
            critical_path=int(position_T[-1]) - self.prompt.last_position if len(position_T) else 0,
            timings=Timings(
                queued=self.admitted - self.submitted,
                prefill=self.started - self.admitted - (self.compiled[1] - self.compiled[0]),
                decode=decode,
                compile=compiled - self.compiled[0],
                per_step=decode / max(counts.decode_steps, 1),
            ),
            stream=stream,
            tokenizer=tokenizer,
        )
