"""The engine: requests in, results out. Admission, the host's side of the loop, growth, streaming, cancel."""

from __future__ import annotations

import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mvjax.engine import loop
from mvjax.engine import state as st
from mvjax.engine.limits import UNLIMITED, EngineConfig, Limits, Mode, SamplingParams
from mvjax.engine.model import StepModel, Stream
from mvjax.engine.programs import Programs
from mvjax.engine.prompt import Prompt, chunk_plan
from mvjax.engine.result import Result, Timings, stream_record, transcript_order
from mvjax.engine.state import Sizes
from mvjax.engine.tables import build_tables
from mvjax.errors import UserError

DEFAULT_LIMITS = Limits()
GREEDY = SamplingParams()


class Fresh(NamedTuple):
    """New tokens of one branch, for streaming. Numbers are the request's own: 0 the root, then in order of forks."""

    request: int
    segment: int
    parent: int
    """Segment that holds the branch's block; -1 for the root."""
    tokens: list[int]


@dataclasses.dataclass
class _Job:
    """What the host knows of a request."""

    request: int
    prompt: Prompt
    limits: Limits
    sampling: SamplingParams
    mode: Mode
    submitted: float
    cancelled: bool = False
    cancel_told: bool = False
    told: int = 0
    parents: dict[int, int] = dataclasses.field(default_factory=lambda: {0: -1})
    admitted: float = 0.0
    prefill: float = 0.0
    started: float = 0.0
    compile_before: float = 0.0
    admit_compile_before: float = 0.0

    @property
    def fed(self) -> int:
        """Prompt tokens that are prefilled; the last one is fed by the loop."""
        return len(self.prompt.tokens) - 1


class Engine:
    """Generates with a step model. One caller at a time; `cancel` may come from another thread.

    Args:
        model: a `StepModel`.
        params: its parameters.
        tokenizer: a tokenizer (`.tables()`, `.decode()`) or its `VocabularyTables` alone.
        config: sizes.

    Raises:
        UserError: model and tokenizer do not fit each other.
    """

    def __init__(self, model: StepModel, params: Any, tokenizer: Any, config: EngineConfig | None = None):
        self.model, self.config = model, config or EngineConfig()
        self.tokenizer = tokenizer if hasattr(tokenizer, "tables") else None
        vocabulary = tokenizer.tables() if self.tokenizer is not None else tokenizer
        if len(vocabulary.codes) > model.vocab_size:
            raise UserError(
                f"the tokenizer has {len(vocabulary.codes)} tokens but the model only {model.vocab_size}; "
                "add the control tags to the checkpoint, or use the tokenizer it came with"
            )
        tables = build_tables(vocabulary, vocabulary.eos_ids, self.config.max_paths)
        self._has_tags = bool((tables.tag_id >= 0).all())
        self._number_length = tables.number.shape[1]
        self._vocab_size = len(vocabulary.codes)
        self._tables = jax.tree.map(jnp.asarray, tables)
        self._params = jax.tree.map(jnp.asarray, params)
        self._programs = Programs()
        self._queue: collections.deque[_Job] = collections.deque()
        self._jobs: list[_Job | None] = []
        self._sizes: Sizes | None = None
        self._stream = self._state = None
        self._running = 0
        self._next = 0
        # Sizes are chosen anew for the first request that finds the engine idle; while requests run they only grow.
        self._resize = True

    # What callers use.

    @property
    def compilations(self) -> int:
        """Programs compiled so far. It stands still once every size in use has been seen."""
        return self._programs.compilations

    @property
    def stream(self) -> Stream:
        """The model's stream as it stands: content of finished requests stays until others take their place."""
        return self._stream

    def generate(
        self,
        prompts: Sequence[Prompt | Sequence[int]],
        *,
        limits: Limits | Sequence[Limits] = DEFAULT_LIMITS,
        sampling: SamplingParams | Sequence[SamplingParams] = GREEDY,
        mode: Mode = "parallel",
        on_tokens: Callable[[list[Fresh]], None] | None = None,
    ) -> list[Result]:
        """Answer prompts; results in their order. More prompts than `EngineConfig.requests` wait for a free place.

        Args:
            prompts: token ids, or `Prompt`s with a layout. A prompt is text: tags in it mean nothing.
            limits, sampling: one for all, or one per prompt.
            mode: "parallel"; "sequential": the same answers with one row per request; "autoregressive": no blocks.
            on_tokens: called after every stay in the loop with the new tokens of each branch.

        Raises:
            UserError: bad settings, or a prompt that does not fit with its limits.
        """
        if self._queue or any(self._jobs):
            raise UserError("this engine is busy with other requests; wait for them, or use submit and advance")
        each_limits = [limits] * len(prompts) if isinstance(limits, Limits) else list(limits)
        each_sampling = [sampling] * len(prompts) if isinstance(sampling, SamplingParams) else list(sampling)
        if len(each_limits) != len(prompts) or len(each_sampling) != len(prompts):
            raise UserError(f"{len(prompts)} prompts, {len(each_limits)} limits, {len(each_sampling)} samplings")
        self._next = 0
        jobs = [
            self._job(prompt, its_limits, its_sampling, mode, index)
            for index, (prompt, its_limits, its_sampling) in enumerate(zip(prompts, each_limits, each_sampling))
        ]
        self._queue.extend(jobs)
        self._next = len(jobs)
        self._resize = True
        results = {}
        try:
            while len(results) < len(prompts):
                results |= {result.request: result for result in self.advance(on_tokens)}
        finally:
            if len(results) < len(prompts):
                self._forget()
        return [results[index] for index in range(len(prompts))]

    def submit(
        self,
        prompt: Prompt | Sequence[int],
        *,
        limits: Limits = DEFAULT_LIMITS,
        sampling: SamplingParams = GREEDY,
        mode: Mode = "parallel",
    ) -> int:
        """Put a request into the queue; returns its number. `advance` runs it. Raises UserError as `generate`."""
        job = self._job(prompt, limits, sampling, mode, self._next)
        self._next += 1
        self._resize |= not self.busy
        self._queue.append(job)
        return job.request

    @property
    def params(self) -> Any:
        """The model's parameters. Set new ones of the same shapes between requests: nothing is compiled again."""
        return self._params

    @params.setter
    def params(self, params: Any) -> None:
        if self.busy:
            raise UserError("this engine is busy; set parameters when no request runs or waits")
        self._params = jax.tree.map(jnp.asarray, params)

    @property
    def busy(self) -> bool:
        """Whether requests run or wait."""
        return bool(self._queue) or any(self._jobs)

    def cancel(self, request: int) -> None:
        """Wind up a request: branches are closed where they stand, waiting paths are left out. It ends in a result."""
        for job in [*self._queue, *self._jobs]:
            if job is not None and job.request == request:
                job.cancelled = True

    def advance(self, on_tokens: Callable[[list[Fresh]], None] | None = None) -> list[Result]:
        """Admit what fits, stay in the loop once, and return the requests that finished."""
        self._admit_waiting()
        if not self._running:
            return []
        for place, job in enumerate(self._jobs):
            if job is not None and job.cancelled and not job.cancel_told:
                self._state = self._programs.call("cancel", self._sizes, _cancel, (0,), self._state, np.int32(place))
                job.cancel_told = True
        width = next(count for count in self._row_counts(self._sizes.requests) if count >= self._running)
        self._make_room(max(self._used_R) + loop.lanes_of(self.config.rows, width), self._sizes.requests)
        program = self._loop_program(width)
        self._stream, self._state, told = program(*self._loop_arguments())
        report = loop.read_report(told)
        self._running, self._used_R = report.running, report.used_R.copy()
        results, fresh = [], []
        for place, job in enumerate(self._jobs):
            if job is None or (report.alive_R[place] and on_tokens is None):
                continue
            record_SC, segment_S, counts = self._programs.call(
                "fetch", self._sizes, _fetch, (), self._state, np.int32(place)
            )
            used = int(report.used_R[place])
            if on_tokens is not None:
                fresh += _fresh(job, np.asarray(record_SC)[:used])
            if not report.alive_R[place]:
                results.append(self._result(job, np.asarray(record_SC), np.asarray(segment_S), counts, used))
                self._jobs[place] = None
                self._used_R[place] = 0
        if fresh:
            on_tokens(fresh)
        return results

    def compile_ahead(self, requests: int = 1, slots: int | None = None) -> None:
        """Compile the loop for all row counts that so many requests can need, at a stream size.

        Raises UserError when the engine is busy.
        """
        if self.busy:
            raise UserError("this engine is busy; compile ahead before the first request")
        requests = self._places_for(requests)
        self._allocate(requests, self._slots_for(slots or self.config.stream_step))
        for width in self._row_counts(requests):
            self._loop_program(width)

    # The host's side.

    def _places_for(self, requests: int) -> int:
        """Requests that state and streams are made for, so that few sizes occur."""
        return min(next_power(requests), self.config.requests)

    def _row_counts(self, requests: int) -> list[int]:
        """Row counts in use for so many requests: up to the first that holds all rows they can have."""
        most = requests * self.config.rows
        counts = [count for count in self.config.row_counts if count < most]
        return [*counts, min([count for count in self.config.row_counts if count >= most], default=most)]

    def _loop_program(self, width: int):
        narrower = max([count for count in self._row_counts(self._sizes.requests) if count < width], default=0)
        run = functools.partial(loop.run, self.model, width=width, narrower=narrower)
        return self._programs.compile(f"run {width} over {narrower}", self._sizes, run, (2, 3), *self._loop_arguments())

    def _loop_arguments(self):
        return self._params, self._tables, self._stream, self._state, np.int32(self.config.sync_steps)

    def _job(self, prompt, limits: Limits, sampling: SamplingParams, mode: Mode, request: int) -> _Job:
        if mode not in ("parallel", "sequential", "autoregressive"):
            raise UserError(f"mode is {mode!r}; give parallel, sequential or autoregressive")
        if not self._has_tags and mode != "autoregressive":
            raise UserError("the tokenizer has no control tags; add them, or use mode autoregressive")
        prompt = prompt if isinstance(prompt, Prompt) else Prompt(prompt)
        prompt.checked(f"prompt {request}", self._vocab_size, self.config.prompt_levels)
        limits = limits.checked(self.config.max_paths, self.config.max_depth)
        room = self.config.max_slots - self.config.rows
        if len(prompt.tokens) + limits.max_new_tokens > room:
            raise UserError(
                f"prompt {request} has {len(prompt.tokens)} tokens; with max_new_tokens {limits.max_new_tokens} it "
                f"needs more than the {room} slots of a stream; shorten it, or raise EngineConfig.max_slots"
            )
        positions = limits.max_positions or limits.max_new_tokens
        most = getattr(self.model, "max_position", None)
        if most is not None and prompt.last_position + min(positions, limits.max_new_tokens) >= most:
            raise UserError(
                f"prompt {request} ends at position {prompt.last_position}; with {positions} positions more it goes "
                f"beyond the model's {most}; shorten it, or lower max_positions"
            )
        return _Job(request, prompt, limits, sampling.checked(), mode, time.perf_counter())

    def _slots_for(self, need: int) -> int:
        """Stream size for so many slots: steps, then half as much again, so that long streams are seldom moved."""
        step = self.config.stream_step
        slots = step
        while slots < need:
            slots = max(slots + step, slots * 3 // 2 // step * step)
        return slots

    def _allocate(self, requests: int, slots: int) -> None:
        """Empty streams of this size, unless the engine has them already."""
        sizes = Sizes(
            requests, slots, self.config.rows, self.config.max_depth, self.config.max_paths, self._number_length
        )
        self._jobs = [None] * requests
        self._used_R = np.zeros(requests, np.int64)
        if sizes == self._sizes:
            return
        self._stream = self._state = None  # The old ones go before the new ones come.
        self._sizes = sizes
        self._stream, self._state = self._programs.call(
            "allocate", sizes, lambda: (self.model.init_stream(requests, slots), st.empty_state(sizes)), ()
        )

    def _make_room(self, slots: int, requests: int) -> None:
        """Let the streams grow, in slots or in requests, to hold that much; their content stays."""
        old = self._sizes
        slots = max(old.slots, self._slots_for(slots))
        requests = max(old.requests, requests)
        if (slots, requests) == (old.slots, old.requests):
            return
        self._sizes = sizes = dataclasses.replace(old, slots=slots, requests=requests)

        def grow(stream, state):
            empty = (self.model.init_stream(requests, slots), st.empty_state(sizes))
            return jax.tree.map(
                lambda new, kept: lax.dynamic_update_slice(new, kept, (0,) * new.ndim), empty, (stream, state)
            )

        self._stream, self._state = self._programs.call(
            f"grow from {old.requests} x {old.slots}", sizes, grow, (), self._stream, self._state
        )
        self._jobs += [None] * (requests - old.requests)
        self._used_R = np.pad(self._used_R, (0, requests - old.requests))

    def _admit_waiting(self) -> None:
        if not self._queue:
            return
        places = self._places_for(len(self._queue) + sum(job is not None for job in self._jobs))
        if self._resize and not any(self._jobs):
            need = max(self._need(job) for job in list(self._queue)[:places])
            self._allocate(places, self._slots_for(need))
            self._resize = False
        elif places > self._sizes.requests:
            self._make_room(0, places)
        for place, job in enumerate(self._jobs):
            if job is None and self._queue:
                self._admit(place, self._queue.popleft())

    def _need(self, job: _Job) -> int:
        """Slots for a prompt, the padding of its last chunk, and the first step."""
        chunks = chunk_plan(job.fed, self.config.prefill_chunks)
        padded = chunks[-1][0] + chunks[-1][1] if chunks else 0
        return max(padded, job.fed + self.config.rows)

    def _admit(self, place: int, job: _Job) -> None:
        """Prefill a prompt and start its root."""
        job.admitted, job.admit_compile_before = time.perf_counter(), self._programs.seconds
        self._make_room(self._need(job), self._sizes.requests)
        prompt, limits, sampling = job.prompt, job.limits, job.sampling
        tokens_T = np.asarray(prompt.tokens, np.int32)
        positions_T = prompt.position_array()
        hide_start_ES, hide_end_ES = prompt.hidden(self.config.prompt_levels, self._sizes.slots)
        for offset, size, length in chunk_plan(job.fed, self.config.prefill_chunks):
            chunk = slice(offset, offset + length)
            padding = (0, size - length)
            self._stream = self._programs.call(
                f"prefill {size} with {len(hide_start_ES)} levels",
                self._sizes,
                self.model.prefill,
                (1,),
                self._params,
                self._stream,
                np.pad(tokens_T[chunk], padding),
                np.pad(positions_T[chunk], padding),
                hide_start_ES,
                hide_end_ES,
                np.int32(place),
                np.int32(offset),
                np.int32(length),
            )
        jax.block_until_ready(self._stream)
        settings = st.Settings(
            rows=np.int32(1 if job.mode == "sequential" else self.config.rows),
            max_path_tokens=np.int32(min(limits.max_path_tokens or UNLIMITED, UNLIMITED)),
            max_paths=np.int32(limits.max_paths),
            max_depth=np.int32(0 if job.mode == "autoregressive" else limits.max_depth),
            min_block_share=np.int32(limits.min_block_share),
            temperature=np.float32(sampling.temperature),
            top_k=np.int32(min(sampling.top_k, UNLIMITED)),
            top_p=np.float32(sampling.top_p),
            cancelled=np.bool_(job.cancelled),
        )
        last = prompt.last_position
        root = _Root(
            token=tokens_T[-1],
            position=np.int32(last),
            fed=np.int32(job.fed),
            left=np.int32(limits.max_new_tokens),
            bound=np.int32(last + 1 + min(limits.max_positions or limits.max_new_tokens, UNLIMITED)),
            seed=np.uint32(sampling.seed),
        )
        sizes = self._sizes
        self._state = self._programs.call(
            "admit",
            sizes,
            lambda state, place, settings, root: _admitted(sizes, state, place, settings, root),
            (0,),
            self._state,
            np.int32(place),
            settings,
            root,
        )
        job.cancel_told = job.cancelled
        job.told = job.fed + 1
        self._jobs[place] = job
        self._used_R[place] = job.fed
        self._running += 1
        job.started, job.compile_before = time.perf_counter(), self._programs.seconds
        job.prefill = job.started - job.admitted - (job.compile_before - job.admit_compile_before)

    def _result(self, job: _Job, record_SC, segment_S, counts, used: int) -> Result:
        first = job.fed + 1
        stream = stream_record(record_SC[first:used].copy(), segment_S[first:used].copy())
        order_T, segment_T, parent = transcript_order(stream)
        reason, steps, barred, abandoned = np.asarray(counts).tolist()
        cut_T = stream.cut[order_T]
        cuts = {int(segment_T[at]): st.REASONS[cut_T[at]] for at in np.flatnonzero(cut_T)}
        if reason != st.STOP:
            cuts[0] = st.REASONS[reason]
        compiled = self._programs.seconds - job.compile_before
        decode = time.perf_counter() - job.started - compiled
        position_T = stream.position[order_T]
        return Result(
            request=job.request,
            prompt_length=first,
            tokens=stream.token[order_T],
            written=stream.written[order_T],
            segment=segment_T,
            position=position_T,
            parent=parent,
            reason=st.REASONS[reason],
            cuts=cuts,
            abandoned=abandoned,
            barred=barred,
            steps=steps,
            critical_path=int(position_T[-1]) - job.prompt.last_position if len(position_T) else 0,
            timings=Timings(
                queued=job.admitted - job.submitted,
                prefill=job.prefill,
                decode=decode,
                compile=self._programs.seconds - job.admit_compile_before,
                per_step=decode / max(steps, 1),
            ),
            stream=stream,
            tokenizer=self.tokenizer,
        )

    def _forget(self) -> None:
        """Drop all requests (after an interruption); the streams are made anew with the next."""
        self._queue.clear()
        self._jobs, self._sizes, self._stream, self._state, self._running = [], None, None, None, 0


class _Root(NamedTuple):
    """What a request's first branch starts from."""

    token: np.ndarray
    position: np.ndarray
    fed: np.ndarray
    left: np.ndarray
    bound: np.ndarray
    seed: np.ndarray


def next_power(count: int) -> int:
    """Smallest power of two that is at least `count`."""
    return 1 << max(count - 1, 0).bit_length()


def _admitted(sizes: Sizes, state: st.State, place, settings: st.Settings, root: _Root) -> st.State:
    """The state with a new request at `place`: its prompt prefilled, its last token chosen."""
    request = st.empty_request(sizes)
    branch = st.empty_branch(sizes)
    branch = branch._replace(
        active=jnp.bool_(True),
        lineage=branch.lineage.at[0].set(0),
        left=root.left,
        next_pos=root.position + 1,
        bound=root.bound,
        key=jax.random.key_data(jax.random.key(root.seed, impl="threefry2x32")),
        token=root.token,
        position=root.position,
        slot=root.fed,
    )
    request = request._replace(
        settings=settings,
        rows=jax.tree.map(lambda leaf, value: leaf.at[0].set(value), request.rows, st.frames_of(branch)),
        alive=jnp.bool_(True),
        numbers=jnp.int32(1),
        used=root.fed,
    )
    segment_S = jnp.where(jnp.arange(sizes.slots) < root.fed, 0, st.NO_SEGMENT)
    return st.State(
        request=jax.tree.map(lambda leaf, value: leaf.at[place].set(value), state.request, request),
        segment_RS=state.segment_RS.at[place].set(segment_S),
        record_RSC=state.record_RSC.at[place].set(0),
    )


def _cancel(state: st.State, place) -> st.State:
    settings = state.request.settings
    settings = settings._replace(cancelled=settings.cancelled.at[place].set(True))
    return state._replace(request=state.request._replace(settings=settings))


def _fetch(state: st.State, place):
    request = state.request
    counts = jnp.stack([request.reason, request.steps, request.barred, request.abandoned])[:, place]
    return state.record_RSC[place], state.segment_RS[place], counts


def _fresh(job: _Job, record_SC: np.ndarray) -> list[Fresh]:
    """New tokens of each branch since the last call, branches in order of their first new token."""
    # A separator's fork is noted when it has been fed, in the same step: it is there when its slot is.
    new_TC = record_SC[job.told :]
    job.told = max(job.told, len(record_SC))
    by_segment: dict[int, list[int]] = {}
    for row in new_TC:
        origin = int(row[st.RECORD_ORIGIN])
        by_segment.setdefault(origin, []).append(int(row[st.RECORD_TOKEN]))
        base = int(row[st.RECORD_FORK])
        for path in range(base, base + int(row[st.RECORD_PATHS])):
            job.parents[path] = origin
    return [Fresh(job.request, number, job.parents[number], tokens) for number, tokens in by_segment.items()]
