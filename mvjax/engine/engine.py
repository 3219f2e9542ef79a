"""The engine: requests in, results out. Admission, the host's side of the loop, growth, streaming, cancel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvjax.engine import decode_loop
from mvjax.engine import state as st
from mvjax.engine.kv_cache import KVCache
from mvjax.engine.limits import EngineConfig, Limits, Mode, SamplingParams
from mvjax.engine.model import KVArrays, StepModel
from mvjax.engine.model_runner import ModelRunner
from mvjax.engine.program_cache import ProgramCache
from mvjax.engine.prompt import Prompt, chunk_plan
from mvjax.engine.request import Request, TokenUpdate
from mvjax.engine.result import Result
from mvjax.engine.scheduler import Scheduler
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
        self._vocab_size = len(vocabulary.codes)
        self._programs = ProgramCache()
        self._streams = KVCache(model, self.config, self._programs, tables.number.shape[1])
        self._calls = ModelRunner(model, self.config, self._streams, *jax.tree.map(jnp.asarray, (tables, params)))
        self._scheduler = Scheduler(self._streams, self._calls)
        self._next = 0

    # What callers use.

    @property
    def compilations(self) -> int:
        """Programs compiled so far. It stands still once every size in use has been seen."""
        return self._programs.compilations

    @property
    def kv(self) -> KVArrays:
        """The model's stream as it stands: content of finished requests stays until others take their place."""
        return self._streams.stream

    def generate(
        self,
        prompts: Sequence[Prompt | Sequence[int]],
        *,
        limits: Limits | Sequence[Limits] = DEFAULT_LIMITS,
        sampling: SamplingParams | Sequence[SamplingParams] = GREEDY,
        mode: Mode = "parallel",
        on_tokens: Callable[[list[TokenUpdate]], None] | None = None,
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
        if self.busy:
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
        self._scheduler.queue.extend(jobs)
        self._next = len(jobs)
        self._scheduler.resize = True
        results = {}
        try:
            while len(results) < len(prompts):
                results |= {result.request: result for result in self.step(on_tokens)}
        finally:
            if len(results) < len(prompts):
                self._scheduler.reset()
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
        self._scheduler.resize |= not self.busy
        self._scheduler.queue.append(job)
        return job.request

    def check(
        self, prompt: Prompt | Sequence[int], limits: Limits, sampling: SamplingParams = GREEDY, mode: Mode = "parallel"
    ) -> None:
        """Raise the UserError that `generate` would raise for this request; nothing is compiled or run."""
        self._job(prompt, limits, sampling, mode, 0)

    @property
    def params(self) -> Any:
        """The model's parameters. Set new ones of the same shapes between requests: nothing is compiled again."""
        return self._calls.params

    @params.setter
    def params(self, params: Any) -> None:
        if self.busy:
            raise UserError("this engine is busy; set parameters when no request runs or waits")
        self._calls.params = jax.tree.map(jnp.asarray, params)

    @property
    def busy(self) -> bool:
        """Whether requests run or wait."""
        return self._scheduler.busy

    def cancel(self, request: int) -> None:
        """Wind up a request: branches are closed where they stand, waiting paths are left out. It ends in a result."""
        for job in [*self._scheduler.queue, *self._scheduler.jobs]:
            if job is not None and job.request == request:
                job.cancelled = True

    def step(self, on_tokens: Callable[[list[TokenUpdate]], None] | None = None) -> list[Result]:
        """Admit what fits, stay in the loop once, and return the requests that finished."""
        streams, scheduler = self._streams, self._scheduler
        scheduler.schedule()
        if not scheduler.running:
            return []
        width = scheduler.width
        scheduler.reserve_ahead(decode_loop.lanes_of(self.config.max_branches, width) * self.config.sync_steps)
        streams.stream, streams.state, told = streams.call(*self._calls.loop(width))
        report = decode_loop.read_report(told)
        scheduler.running, streams.used_R = report.running, report.used_R.astype(np.int64)
        results, fresh = [], []
        for place, job in enumerate(scheduler.jobs):
            if job is None or (report.alive_R[place] and on_tokens is None):
                continue
            record_SC, segment_S, counts = self._fetch(place)
            if on_tokens is not None:
                fresh += job.token_updates(record_SC)
            if not report.alive_R[place]:
                results.append(job.result(record_SC, segment_S, counts, self._programs.seconds, self.tokenizer))
                scheduler.release(place)
        if fresh:
            on_tokens(fresh)
        return results

    def compile_ahead(self, requests: int = 1, slots: int | None = None, prompt_lengths: Sequence[int] = ()) -> None:
        """Compile for so many requests in streams of so many slots, which later requests that fit will use.

        Args:
            slots: prompt, new tokens and `EngineConfig.max_branches` spare ones; `EngineConfig.stream_step` by default.
            prompt_lengths: lengths of prompts without a layout, whose prefill is compiled too.

        Raises:
            UserError: the engine is busy.
        """
        if self.busy:
            raise UserError("this engine is busy; compile ahead before the first request")
        requests, streams = self._scheduler.places_for(requests), self._streams
        self._scheduler.allocate(requests, streams.slots_for(slots or self.config.stream_step))
        plans = [chunk_plan(length - 1, self.config.prefill_chunks) for length in prompt_lengths]
        chunks = {size for plan in plans for _, size, _ in plan}
        blank = Request(0, Prompt([0]), DEFAULT_LIMITS, GREEDY, "parallel")
        hidden = blank.prompt.hidden(self.config.prompt_levels, streams.sizes.slots)
        columns = [np.zeros(size, np.int32) for size in chunks]
        programs = [self._calls.loop(width) for width in self._calls.row_counts(requests)]
        programs += [self._calls.prefill(column, column, hidden, 0, 0, 1) for column in columns]
        programs += [self._calls.admission(0, blank), self._calls.fetching(0)]
        self._programs.compile_ahead(streams.sizes, programs)

    # The host's side.

    def _job(self, prompt, limits: Limits, sampling: SamplingParams, mode: Mode, request: int) -> Request:
        if mode not in ("parallel", "sequential", "autoregressive"):
            raise UserError(f"mode is {mode!r}; give parallel, sequential or autoregressive")
        if not self._has_tags and mode != "autoregressive":
            raise UserError("the tokenizer has no control tags; add them, or use mode autoregressive")
        prompt = prompt if isinstance(prompt, Prompt) else Prompt(prompt)
        prompt.validate(f"prompt {request}", self._vocab_size, self.config.prompt_levels)
        limits = limits.validate(self.config.max_paths, self.config.max_depth)
        room = self._streams.most_slots - self.config.max_branches
        if len(prompt.tokens) + limits.max_new_tokens > room:
            raise UserError(
                f"prompt {request} has {len(prompt.tokens)} tokens; with max_new_tokens {limits.max_new_tokens} it "
                f"needs more than the {room} slots of a stream; shorten it, or raise EngineConfig.max_slots"
                + (" or pages" if self._streams.pages else "")
            )
        positions = limits.max_positions or limits.max_new_tokens
        most = getattr(self.model, "max_position", None)
        if most is not None and prompt.last_position + min(positions, limits.max_new_tokens) >= most:
            raise UserError(
                f"prompt {request} ends at position {prompt.last_position}; with {positions} positions more it goes "
                f"beyond the model's {most}; shorten it, or lower max_positions"
            )
        return Request(request, prompt, limits, sampling.validate(), mode)

    def _fetch(self, place: int) -> tuple[np.ndarray, np.ndarray, st.Counts]:
        """Records and segments of the slots that a request uses, and its counts."""
        record_SC, segment_S, counts = self._streams.call(*self._calls.fetching(place))
        used = int(self._streams.used_R[place])
        return np.asarray(record_SC)[:used], np.asarray(segment_S)[:used], st.Counts(*map(int, counts))
