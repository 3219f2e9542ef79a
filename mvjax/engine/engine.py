"""The engine: requests in, results out. Admission, the host's side of the loop, growth, streaming, cancel."""

from __future__ import annotations

import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvjax.engine import admission, loop
from mvjax.engine import state as st
from mvjax.engine.job import Fresh, Job
from mvjax.engine.limits import EngineConfig, Limits, Mode, SamplingParams
from mvjax.engine.model import StepModel, Stream
from mvjax.engine.programs import Programs
from mvjax.engine.prompt import Prompt, chunk_plan
from mvjax.engine.result import Result
from mvjax.engine.state import Sizes
from mvjax.engine.tables import build_tables
from mvjax.errors import UserError

DEFAULT_LIMITS = Limits()
GREEDY = SamplingParams()


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
        self._queue: collections.deque[Job] = collections.deque()
        self._jobs: list[Job | None] = []
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

    def check(
        self, prompt: Prompt | Sequence[int], limits: Limits, sampling: SamplingParams = GREEDY, mode: Mode = "parallel"
    ) -> None:
        """Raise the UserError that `generate` would raise for this request; nothing is compiled or run."""
        self._job(prompt, limits, sampling, mode, 0)

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
                self._state = self._call("cancel", admission.cancel, (0,), self._state, np.int32(place))
                job.cancel_told = True
        width = next(count for count in self._row_counts(self._sizes.requests) if count >= self._running)
        self._make_room(max(self._used_R) + loop.lanes_of(self.config.rows, width), self._sizes.requests)
        self._stream, self._state, told = self._call(*self._loop(width))
        report = loop.read_report(told)
        self._running, self._used_R = report.running, report.used_R.copy()
        results, fresh = [], []
        for place, job in enumerate(self._jobs):
            if job is None or (report.alive_R[place] and on_tokens is None):
                continue
            record_SC, segment_S, counts = self._fetch(place)
            if on_tokens is not None:
                fresh += job.fresh_tokens(record_SC)
            if not report.alive_R[place]:
                results.append(job.result(record_SC, segment_S, counts, self._programs.seconds, self.tokenizer))
                self._jobs[place], self._used_R[place] = None, 0
        if fresh:
            on_tokens(fresh)
        return results

    def compile_ahead(self, requests: int = 1, slots: int | None = None, prompt_lengths: Sequence[int] = ()) -> None:
        """Compile for so many requests in streams of so many slots, which later requests that fit will use.

        Args:
            slots: prompt, new tokens and `EngineConfig.rows` spare ones; `EngineConfig.stream_step` by default.
            prompt_lengths: lengths of prompts without a layout, whose prefill is compiled too.

        Raises:
            UserError: the engine is busy.
        """
        if self.busy:
            raise UserError("this engine is busy; compile ahead before the first request")
        requests = self._places_for(requests)
        self._allocate(requests, self._slots_for(slots or self.config.stream_step))
        plans = [chunk_plan(length - 1, self.config.prefill_chunks) for length in prompt_lengths]
        chunks = {size for plan in plans for _, size, _ in plan}
        blank = Job(0, Prompt([0]), DEFAULT_LIMITS, GREEDY, "parallel")
        hidden = blank.prompt.hidden(self.config.prompt_levels, self._sizes.slots)
        columns = [np.zeros(size, np.int32) for size in chunks]
        programs = [self._loop(width) for width in self._row_counts(requests)]
        programs += [self._prefill(column, column, hidden, 0, 0, 1) for column in columns]
        self._programs.compile_ahead(self._sizes, [*programs, self._admission(0, blank), self._fetching(0)])

    # The host's side.

    def _places_for(self, requests: int) -> int:
        """Requests that state and streams are made for, so that few sizes occur."""
        return min(next_power(requests), self.config.requests)

    def _row_counts(self, requests: int) -> list[int]:
        """Row counts in use for so many requests: up to the first that holds all rows they can have."""
        most = requests * self.config.rows
        counts = [count for count in self.config.row_counts if count < most]
        return [*counts, min([count for count in self.config.row_counts if count >= most], default=most)]

    # Programs: name, function, donated arguments, arguments.

    def _loop(self, width: int) -> tuple:
        narrower = max([count for count in self._row_counts(self._sizes.requests) if count < width], default=0)
        run = functools.partial(loop.run, self.model, width=width, narrower=narrower)
        arguments = self._params, self._tables, self._stream, self._state, np.int32(self.config.sync_steps)
        return f"run {width} over {narrower}", run, (2, 3), *arguments

    def _prefill(self, tokens_T, positions_T, hidden: tuple, place: int, offset: int, length: int) -> tuple:
        name = f"prefill {len(tokens_T)} with {len(hidden[0])} levels"
        numbers = np.int32(place), np.int32(offset), np.int32(length)
        return name, self.model.prefill, (1,), self._params, self._stream, tokens_T, positions_T, *hidden, *numbers

    def _admission(self, place: int, job: Job) -> tuple:
        admit = functools.partial(admission.admit, sizes=self._sizes)
        return "admit", admit, (0,), self._state, np.int32(place), job.settings(self.config.rows), job.root()

    def _fetching(self, place: int) -> tuple:
        return "fetch", admission.fetch, (), self._state, np.int32(place)

    def _call(self, name: str, *rest: Any) -> Any:
        return self._programs.call(name, self._sizes, *rest)

    # Requests and sizes.

    def _job(self, prompt, limits: Limits, sampling: SamplingParams, mode: Mode, request: int) -> Job:
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
        return Job(request, prompt, limits, sampling.checked(), mode)

    def _slots_for(self, need: int) -> int:
        """Stream size for so many slots: steps, then half as much again, so that long streams are seldom moved."""
        step = self.config.stream_step
        slots = step
        while slots < need:
            slots = max(slots + step, slots * 3 // 2 // step * step)
        return max(need, min(slots, self.config.max_slots))

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

        grow = functools.partial(admission.grow, model=self.model, sizes=sizes)
        name = f"grow from {old.requests} x {old.slots}"
        self._stream, self._state = self._programs.call(name, sizes, grow, (), self._stream, self._state)
        self._jobs += [None] * (requests - old.requests)
        self._used_R = np.pad(self._used_R, (0, requests - old.requests))

    def _admit_waiting(self) -> None:
        if not self._queue:
            return
        places = self._places_for(len(self._queue) + sum(job is not None for job in self._jobs))
        if self._resize and not any(self._jobs):
            need = max(self._need(job) for job in list(self._queue)[:places])
            slots = self._slots_for(need)
            # A size that the loop is compiled for already, unless streams would be read that are far too long.
            compiled = {sizes.slots for sizes in self._programs.sizes("run") if sizes.requests == places}
            fitting = [size for size in compiled if slots <= size <= 4 * slots]
            self._allocate(places, min(fitting, default=slots))
            self._resize = False
        elif places > self._sizes.requests:
            self._make_room(0, places)
        for place, job in enumerate(self._jobs):
            if job is None and self._queue:
                self._admit(place, self._queue.popleft())

    def _need(self, job: Job) -> int:
        """Slots for a prompt, the padding of its last chunk, and the first step."""
        chunks = chunk_plan(job.fed, self.config.prefill_chunks)
        padded = chunks[-1][0] + chunks[-1][1] if chunks else 0
        return max(padded, job.fed + self.config.rows)

    def _admit(self, place: int, job: Job) -> None:
        """Prefill a prompt and start its root."""
        job.admitted, compiled = time.perf_counter(), self._programs.seconds
        self._make_room(self._need(job), self._sizes.requests)
        tokens_T, positions_T = np.asarray(job.prompt.tokens, np.int32), job.prompt.position_array()
        hidden = job.prompt.hidden(self.config.prompt_levels, self._sizes.slots)
        for offset, size, length in chunk_plan(job.fed, self.config.prefill_chunks):
            chunk, padding = slice(offset, offset + length), (0, size - length)
            columns = np.pad(tokens_T[chunk], padding), np.pad(positions_T[chunk], padding)
            self._stream = self._call(*self._prefill(*columns, hidden, place, offset, length))
        jax.block_until_ready(self._stream)
        self._state = self._call(*self._admission(place, job))
        job.cancel_told, job.told = job.cancelled, job.fed + 1
        job.started, job.compiled = time.perf_counter(), (compiled, self._programs.seconds)
        self._jobs[place], self._used_R[place] = job, job.fed
        self._running += 1

    def _fetch(self, place: int) -> tuple[np.ndarray, np.ndarray, st.Counts]:
        """Records and segments of the slots that a request uses, and its counts."""
        record_SC, segment_S, counts = self._call(*self._fetching(place))
        used = int(self._used_R[place])
        return np.asarray(record_SC)[:used], np.asarray(segment_S)[:used], st.Counts(*map(int, counts))

    def _forget(self) -> None:
        """Drop all requests (after an interruption); the streams are made anew with the next."""
        self._queue.clear()
        self._jobs, self._sizes, self._stream, self._state, self._running = [], None, None, None, 0


def next_power(count: int) -> int:
    """Smallest power of two that is at least `count`."""
    return 1 << max(count - 1, 0).bit_length()
