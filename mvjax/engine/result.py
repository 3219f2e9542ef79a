"""Results: the transcript put into its order from the slots of the stream, and the measures of a request."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32

from mvjax.engine import state as st
from mvjax.engine.logprobs import LogProbs
from mvjax.engine.prompt import Prompt
from mvjax.engine.record import FLAGS, FORK, ORIGIN, PATHS, POSITION, TOKEN, Record
from mvjax.errors import UserError
from mvjax.language.tree import Transcript, parse_tokens

NOT_FINITE = "the model's logits are not finite numbers; check its weights, or take a wider number format"


@dataclasses.dataclass(frozen=True)
class StreamRecord:
    """The slots behind the prompt in the order in which they were filled. Segment numbers are those of the request:
    0 the root, then in the order of forks."""

    token: Int32[np.ndarray, "T"]
    position: Int32[np.ndarray, "T"]
    origin: Int32[np.ndarray, "T"]
    """Segment that made the token. At the end every slot is the root's: all blocks have been reduced."""
    written: Bool[np.ndarray, "T"]
    """The interpreter wrote the token."""
    cut: Int32[np.ndarray, "T"]
    """Reason (an index of `state.REASONS`) at the first token of a wind-up, else 0."""
    fork: Int32[np.ndarray, "T"]
    """Number of path 1 of the block that forks at this separator; 0: none."""
    paths: Int32[np.ndarray, "T"]
    """Paths of that block."""
    logprobs: LogProbs | None = None


@dataclasses.dataclass(frozen=True)
class Timings:
    """Seconds."""

    queued: float
    """From the call to admission."""
    prefill: float
    """Prefill of the prompt."""
    decode: float
    """From admission to the end, without compilation; requests beside it share this time."""
    compile: float
    """Spent on compiling programs while the request ran."""
    per_step: float
    """`decode` by the steps of the request."""


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished request. Arrays are over the new tokens in transcript order (parent, paths by number, conclusion)."""

    request: int
    """Its index in the call, or the number that `submit` gave."""
    prompt_length: int
    tokens: Int32[np.ndarray, "T"]
    """Token ids, without the prompt and without the end-of-text token."""
    written: Bool[np.ndarray, "T"]
    """Tokens that the interpreter wrote; the model sampled the others."""
    segment: Int32[np.ndarray, "T"]
    """Segment of each token, numbered in the order of the `<Path>` tags; 0 is the root."""
    position: Int32[np.ndarray, "T"]
    """Rotary position."""
    parent: Int32[np.ndarray, "segments"]
    """Parent of each segment; -1 for the root."""
    reason: str
    """Why it ended: stop, tokens, positions, cancelled, not finite (its logits were not), or failed (see `error`)."""
    cuts: dict[int, str]
    """Segments that were wound up, and why."""
    abandoned: int
    """Blocks that were closed without a path."""
    barred: int
    """Tokens sampled where the model's own first choice was a tag or end-of-text that the grammar bars."""
    decode_steps: int
    """Model steps in which the request had a token to feed."""
    critical_path: int
    """Last position - last prompt position."""
    found: int
    """Prompt tokens whose keys and values were there already, from prompts and answers before."""
    timings: Timings
    logprobs: LogProbs | None = dataclasses.field(repr=False)
    """Of the tokens; None unless the engine keeps them (`EngineConfig.logprobs`)."""
    stream: StreamRecord = dataclasses.field(repr=False)
    """What the stream held, slot by slot."""
    tokenizer: Any = dataclasses.field(default=None, repr=False, compare=False)
    error: Exception | None = None
    """What made it fail; it has no tokens then. Other requests are not touched."""

    def raise_if_failed(self) -> Result:
        """This result; raises what made it fail, and a UserError where the model's logits were not finite."""
        if self.error is not None:
            raise self.error
        if self.reason == "not finite":
            raise UserError(f"request {self.request}: {NOT_FINITE}")
        return self

    @property
    def new_tokens(self) -> int:
        """Tokens of all branches, written ones included."""
        return len(self.tokens)

    @property
    def sampled(self) -> int:
        """Tokens that the model sampled."""
        return int(np.sum(~self.written))

    @property
    def degree(self) -> float:
        """Degree of parallelism, "# parallel": new tokens over critical path; 1.0 where there are none."""
        return self.new_tokens / self.critical_path if self.new_tokens else 1.0

    @property
    def text(self) -> str:
        """The transcript as text (needs the engine to have been given a tokenizer)."""
        return self.tokenizer.decode(self.tokens.tolist())

    def tree(self) -> Transcript:
        """The transcript's tree, without the prompt (needs a tokenizer)."""
        tables = self.tokenizer.tables()
        codes_T, colon_T = tables.codes[self.tokens], tables.colon[self.tokens]
        return parse_tokens(self.tokens.tolist(), codes_T, colon_T, engine_output=True, max_depth=len(self.parent))


def make_result(
    number: int,
    prompt: Prompt,
    stream: StreamRecord,
    reason: str,
    counts: st.Counts,
    timings: Timings,
    tokenizer: Any,
    error: Exception | None = None,
    found: int = 0,
) -> Result:
    """The result of request `number` from what its stream holds behind the prompt."""
    order_T, segment_T, parent = transcript_order(stream)
    position_T, cut_T = stream.position[order_T], stream.cut[order_T]
    cuts = {int(segment_T[at]): st.REASONS[cut_T[at]] for at in np.flatnonzero(cut_T)}
    if reason in st.REASONS[st.TOKENS :]:
        cuts[0] = reason
    return Result(
        request=number,
        prompt_length=len(prompt.tokens),
        tokens=stream.token[order_T],
        written=stream.written[order_T],
        segment=segment_T,
        position=position_T,
        parent=parent,
        reason=reason,
        cuts=cuts,
        abandoned=int(counts.abandoned),
        barred=int(counts.barred),
        decode_steps=int(counts.decode_steps),
        critical_path=int(position_T[-1]) - prompt.last_position if len(position_T) else 0,
        found=found,
        timings=timings,
        logprobs=stream.logprobs and stream.logprobs.take(order_T),
        stream=stream,
        tokenizer=tokenizer,
        error=error,
    )


def stream_record(record: Record) -> StreamRecord:
    """The new tokens of a record: all but its first, the prompt's last."""
    # A copy, so that the result does not keep the record's spare room alive.
    rows_TC = record.rows_TC[1:].copy()
    flags_T = rows_TC[:, FLAGS]
    return StreamRecord(
        token=rows_TC[:, TOKEN],
        position=rows_TC[:, POSITION],
        origin=rows_TC[:, ORIGIN],
        written=(flags_T & st.WRITTEN_FLAG) > 0,
        cut=flags_T >> st.CUT_SHIFT,
        fork=rows_TC[:, FORK],
        paths=rows_TC[:, PATHS],
        logprobs=record.logprobs(1),
    )


def transcript_order(stream: StreamRecord) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The slots in transcript order, the segment of each (numbered in that order), and each segment's parent.

    A block's paths stand behind the separator at which it forks, by number; a path that never ran (left out because
    the request was cancelled) has no tokens and gets no segment.
    """
    order_T = np.argsort(stream.origin, kind="stable")
    numbers, first = np.unique(stream.origin[order_T], return_index=True)
    slots_of = {number: slots.tolist() for number, slots in zip(numbers.tolist(), np.split(order_T, first[1:]))}
    order: list[int] = []
    segment: list[int] = []
    parent: list[int] = []
    # Segments in hand, innermost last: the slots still to come, and the number; paths that wait have none yet (-1).
    stack = [(iter(slots_of.get(0, ())), -1, -1)]
    while stack:
        slots, number, holder = stack.pop()
        if number < 0:
            number = len(parent)
            parent.append(holder)
        for slot in slots:
            order.append(slot)
            segment.append(number)
            if stream.fork[slot]:
                base = int(stream.fork[slot])
                paths = range(base, base + int(stream.paths[slot]))
                stack.append((slots, number, holder))
                stack += [(iter(slots_of[path]), -1, number) for path in reversed(paths) if path in slots_of]
                break
    return np.array(order, np.int32), np.array(segment, np.int32), np.array(parent, np.int32)
