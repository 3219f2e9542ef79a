"""The engine: requests in, results out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mvjax.engine.kv_cache import KVCache
from mvjax.engine.limits import EngineConfig, Limits, Mode
from mvjax.engine.model import KVArrays, StepModel
from mvjax.engine.model_runner import ModelRunner
from mvjax.engine.program_cache import ProgramCache
from mvjax.engine.prompt import Prompt
from mvjax.engine.report import DecodeReport
from mvjax.engine.request import Request, TokenUpdate
from mvjax.engine.result import Result
from mvjax.engine.sampling_params import SamplingParams
from mvjax.engine.scheduler import Scheduler
from mvjax.engine.state import Counts
from mvjax.engine.stats import EngineStats
from mvjax.engine.tables import build_tables
from mvjax.engine.turns import next_turn
from mvjax.errors import UserError
from mvjax.language.errors import TranscriptError

DEFAULT_LIMITS = Limits()
GREEDY = SamplingParams()
REUSED = ("stop", "tokens", "positions", "cancelled")
"""Reasons of answers that a later prompt may hold."""
PromptLike = Prompt | Sequence[int] | str
"""Token ids; a `Prompt`, with a layout; or a question as text, for the tokenizer's chat template."""
OnTokens = Callable[[list[TokenUpdate]], None]


class QueueFull(UserError):
    """No more requests are taken for now."""


class WarmUp(NamedTuple):
    """What `Engine.warm_up` did."""

    programs: int
    """Programs that the engine has now."""
    seconds: float
    """How long it took."""


class Engine:
    """Generates with a step model. One caller at a time; `cancel` may come from another thread.

    Every request ends in a result of its own: with its answer, or with reason "failed" and what made it fail. A fault
    in one request leaves the tokens of the others as they are.

    Args:
        model: a `StepModel`.
        params: its parameters.
        tokenizer: a tokenizer (`.tables()`, `.decode()`, `.render_chat()`) or its `VocabularyTables` alone.
        config: sizes.

    Attributes:
        tokenizer: None where it was given the tables alone.
        vocabulary: the `VocabularyTables`.
        has_tags: whether the vocabulary has control tags; without them only autoregressive requests are taken.

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
        self.has_tags = bool((tables.tag_id >= 0).all())
        self.vocabulary = vocabulary
        self._programs = ProgramCache(getattr(model, "arithmetic", None))
        self._cache = KVCache(model, self.config, self._programs, tables.number.shape[1])
        tables = jax.device_put(tables, self._cache.replicated)
        params = jax.tree.map(jnp.asarray, params)
        self._runner = ModelRunner(model, self.config, self._cache, self._programs, tables, params)
        self._scheduler = Scheduler(self._cache, self._runner)
        self._requests: dict[int, Request] = {}
        """Requests whose results have not been returned, by number."""
        self._finished: dict[int, Result] = {}
        self._updates: list[TokenUpdate] = []
        self._report: DecodeReport | None = None
        """Of a stay that not all requests have read yet; an interruption may come between them."""
        self._next = self._warm = 0
        self._steps = self._tokens = 0
        """Of the loop, and new ones of all requests, so far."""

    # What callers use.

    @property
    def compilations(self) -> int:
        """Programs compiled so far. The count is constant once every size in use has been seen."""
        return len(self._programs)

    @property
    def cold_compilations(self) -> int:
        """Programs compiled since `warm_up`, while requests waited; 0 where it was not called."""
        return len(self._programs) - self._warm if self._warm else 0

    @property
    def kv(self) -> KVArrays:
        """The model's arrays: content of finished requests stays until others take their slots."""
        return self._cache.kv

    def stats(self) -> EngineStats:
        """How busy the engine is and what it has done. For the caller's thread, between two calls of `step`."""
        scheduler, pool = self._scheduler, self._cache.pool
        pages = 0 if pool is None else pool.pages - 1
        return EngineStats(
            running=sum(request is not None for request in scheduler.on_device),
            waiting=len(scheduler.queue),
            rows=scheduler.running,
            pages_used=0 if pool is None else pages - pool.free,
            pages=pages,
            preemptions=scheduler.preemptions,
            prefix_queries=scheduler.pages.looked_up,
            prefix_hits=scheduler.pages.found,
            cold_compilations=self.cold_compilations,
            programs=self.compilations,
            prompt_tokens=scheduler.prompt_tokens,
            generation_tokens=self._tokens,
            steps=self._steps,
        )

    @property
    def max_slots(self) -> int:
        """Slots that a request's prompt and new tokens must fit."""
        return self._cache.max_slots - self.config.max_branches

    @property
    def max_position(self) -> int | None:
        """Rotary positions that the model has; None: any number."""
        return getattr(self.model, "max_position", None)

    @property
    def busy(self) -> bool:
        """Whether requests run or wait, or results have not been returned."""
        return bool(self._requests)

    def generate(
        self,
        prompts: Sequence[PromptLike],
        *,
        limits: Limits | Sequence[Limits] = DEFAULT_LIMITS,
        sampling: SamplingParams | Sequence[SamplingParams] = GREEDY,
        mode: Mode = "parallel",
        on_tokens: OnTokens | None = None,
    ) -> list[Result]:
        """Answer prompts; results in their order. More prompts than `EngineConfig.requests` wait in a queue.

        Args:
            prompts: token ids, `Prompt`s with a layout, or questions as text. Tags in a prompt mean nothing.
            limits, sampling: one for all, or one per prompt.
            mode: "parallel"; "sequential": the same answers, branch by branch; "autoregressive": no blocks.
            on_tokens: called after every stay in the loop with the new tokens of each branch; stays are then of
                `EngineConfig.stream_steps`. If it raises, all these requests are dropped.

        Raises:
            UserError: bad settings, or a prompt that does not fit with its limits.
        """
        if self.busy:
            raise UserError("this engine is busy with other requests; wait for them, or use submit and step")
        requests = [
            self._request(prompt, its_limits, its_sampling, mode, number)
            for number, (prompt, its_limits, its_sampling) in enumerate(each_setting(prompts, limits, sampling))
        ]
        self._next = len(requests)
        results: dict[int, Result] = {}
        try:
            self._enqueue(requests)
            while len(results) < len(prompts):
                results |= {result.request: result for result in self.step(on_tokens)}
        finally:
            if len(results) < len(prompts):
                self.reset()
        return [results[number] for number in range(len(prompts))]

    def submit(
        self,
        prompt: PromptLike,
        *,
        limits: Limits = DEFAULT_LIMITS,
        sampling: SamplingParams = GREEDY,
        mode: Mode = "parallel",
        deadline: float | None = None,
    ) -> int:
        """Put a request into the queue; returns its number. `step` runs it.

        Args:
            deadline: seconds from now after which it is wound up as by `cancel`, with the reason "deadline".

        Raises:
            UserError: as `generate`, or `EngineConfig.max_queue` requests wait already.
        """
        waiting, most = len(self._scheduler.queue), self.config.max_queue
        if most is not None and waiting >= most:
            raise QueueFull(f"{waiting} requests wait, as many as the queue takes (EngineConfig.max_queue); try later")
        request = self._request(prompt, limits, sampling, mode, self._next)
        if deadline is not None:
            request.deadline = request.submitted + deadline
        self._next += 1
        self._enqueue([request])
        return request.number

    def check(
        self, prompt: PromptLike, limits: Limits, sampling: SamplingParams = GREEDY, mode: Mode = "parallel"
    ) -> None:
        """Raise the UserError that `generate` would raise for this request; nothing is compiled or run."""
        self._request(prompt, limits, sampling, mode, 0)

    def cancel(self, number: int, *, drop: bool = False) -> None:
        """Wind up a request: branches are closed where they are, waiting paths are left out. It ends in a result.

        Args:
            drop: nobody waits for the answer: its pages are free with the next step, and its result has no tokens.
        """
        request = self._requests.get(number)
        if request is not None:
            request.dropped = request.dropped or drop
            request.cancelled = True

    def step(self, on_tokens: OnTokens | None = None) -> list[Result]:
        """Admit what fits, stay in the loop once, and return the requests that have ended.

        Args:
            on_tokens: gets the new tokens of each branch, and makes stays shorter (`EngineConfig.stream_steps`). If it
                raises, the results come with the next call.
        """
        scheduler, config = self._scheduler, self.config
        steps = config.sync_steps if on_tokens is None else min(config.stream_steps, config.sync_steps)
        try:
            if self._report is None and (batch := scheduler.schedule(steps)) is not None:
                self._report = self._runner.decode(*batch)
                scheduler.running = self._report.running
                self._steps += self._report.steps
        except BaseException as error:
            self._report = None
            scheduler.recover(error)
            if not isinstance(error, Exception):
                raise
        if self._report is not None:
            for index, request in enumerate(scheduler.on_device):
                if request is not None and request.started:
                    self._read(index, request, self._report, on_tokens is not None)
            self._report = None
        for request in scheduler.ended:
            self._finished[request.number] = request.ended_off_device(self.tokenizer)
        scheduler.ended.clear()
        updates, self._updates = self._updates, []
        if updates and on_tokens is not None:
            on_tokens(updates)
        results, self._finished = list(self._finished.values()), {}
        for result in results:
            self._requests.pop(result.request, None)
        return results

    def reset(self) -> None:
        """Drop all requests, without results."""
        self._scheduler.reset()
        self._requests, self._finished, self._updates, self._report = {}, {}, [], None

    def warm_up(self) -> WarmUp:
        """Compile every program that requests will need, side by side. Those that are compiled already, in this process
        or in JAX's persistent cache (`jax_compilation_cache_dir`), are taken from there.

        Raises:
            UserError: the engine is busy.
        """
        if self.busy:
            raise UserError("this engine is busy; warm it up before the first request")
        blank, before = Request(0, Prompt([0]), DEFAULT_LIMITS, GREEDY, "parallel"), self._programs.seconds
        settings = blank.settings(self.config.max_branches, cancelled=False)
        loops = [(batch.width, batch.narrower) for batch in self._scheduler.batches()]
        self._runner.warm_up(loops, settings, blank.root())
        self._warm = len(self._programs)
        return WarmUp(self._warm, self._programs.seconds - before)

    @property
    def params(self) -> Any:
        """The model's parameters. Set new ones of the same shapes between requests: nothing is compiled again."""
        return self._runner.params

    @params.setter
    def params(self, params: Any) -> None:
        if self.busy:
            raise UserError("this engine is busy; set parameters when no request runs or waits")
        self._runner.params = jax.tree.map(jnp.asarray, params)
        self._cache.forget()  # Keys and values are those of the weights before.

    def next_turn(self, prompt: PromptLike, result: Result, tokens: Sequence[int]) -> Prompt:
        """The prompt of a conversation's next turn: a prompt, its answer laid out as the transcript that it is, and new
        tokens behind them. What the engine still holds of the first two is not prefilled again."""
        return next_turn(self._prompt(prompt, "parallel"), result, tokens, self.vocabulary)

    def known(self, prompt: PromptLike, mode: Mode = "parallel") -> int:
        """Tokens of a prompt whose keys and values are in pages already. Between two calls of `step`."""
        prefixes, prompt = self._cache.prefixes, self._prompt(prompt, mode)
        fed = len(prompt.tokens) - 1
        return 0 if prefixes is None else prefixes.find(prompt, prefixes.page_keys(prompt, fed), fed).slots

    def loop_programs(self) -> dict[str, str]:
        """The compiled generation loops as text, by their rows."""
        loops = self._runner.decode_programs()
        return {f"{key.width} rows over {key.narrower}": program.as_text() for key, program in loops.items()}

    # The host's side.

    def _enqueue(self, requests: Sequence[Request]) -> None:
        self._requests |= {request.number: request for request in requests}
        self._scheduler.queue.extend(requests)

    def _read(self, index: int, request: Request, report: DecodeReport, streams_tokens: bool) -> None:
        """Take what a stay tells of a request: new tokens, and its result if it has ended."""
        try:
            request.take(report.fed_R[index], int(report.used_R[index]))
            self._tokens += request.count_new()
            if streams_tokens:
                self._updates += request.token_updates()
            if not report.alive_R[index]:
                counts = Counts(*[count_R[index] for count_R in report.counts])
                result = request.result(counts, self._programs.seconds, self.tokenizer)
                if self._cache.prefixes is not None and result.reason in REUSED:
                    self._keep(index, request.prompt, result)
                self._finished[request.number] = result
                self._scheduler.finish(index)
        except Exception as error:
            self._scheduler.fail(index, error)

    def _keep(self, index: int, prompt: Prompt, result: Result) -> None:
        """The stream of an answer may be the beginning of later prompts."""
        try:
            transcript = next_turn(prompt, result, (), self.vocabulary)
        except TranscriptError:  # It cannot be a turn of a conversation, but it is an answer.
            return
        self._scheduler.pages.keep(index, transcript)

    def _request(
        self, prompt: PromptLike, limits: Limits, sampling: SamplingParams, mode: Mode, number: int
    ) -> Request:
        """A request that can be kept, or UserError."""
        if mode not in ("parallel", "sequential", "autoregressive"):
            raise UserError(f"mode is {mode!r}; give parallel, sequential or autoregressive")
        if not self.has_tags and mode != "autoregressive":
            raise UserError("the tokenizer has no control tags; add them, or use mode autoregressive")
        prompt = self._prompt(prompt, mode).validate(
            f"prompt {number}", len(self.vocabulary.codes), self.config.prompt_levels
        )
        limits = limits.validate(self.config.max_paths, self.config.max_depth, mode)
        room = self.max_slots
        if len(prompt.tokens) + limits.max_new_tokens > room:
            raise UserError(
                f"prompt {number} has {len(prompt.tokens)} tokens; with max_new_tokens {limits.max_new_tokens} it "
                f"needs more than the {room} slots of a stream; shorten it, or raise EngineConfig.max_slots"
                + (" or pages" if self._cache.sizes.pages else "")
            )
        positions = limits.max_positions or limits.max_new_tokens
        most = self.max_position
        if most is not None and prompt.last_position + min(positions, limits.max_new_tokens) >= most:
            raise UserError(
                f"prompt {number} ends at position {prompt.last_position}; with {positions} positions more it goes "
                f"beyond the model's {most}; shorten it, or lower max_positions"
            )
        return Request(number, prompt, limits, sampling.validate().check(limits, self.vocabulary.codes), mode)

    def _prompt(self, prompt: PromptLike, mode: Mode) -> Prompt:
        if isinstance(prompt, Prompt):
            return prompt
        if not isinstance(prompt, str):
            return Prompt(prompt)
        from mvjax.data.encode import with_suffix

        if self.tokenizer is None:
            raise UserError("a prompt is text, but the engine was built without a tokenizer; give token ids")
        form = "autoregressive" if mode == "autoregressive" else "multiverse"
        return Prompt(self.tokenizer.render_chat(with_suffix([{"role": "user", "content": prompt}], form)))


def each_setting(
    prompts: Sequence[PromptLike],
    limits: Limits | Sequence[Limits],
    sampling: SamplingParams | Sequence[SamplingParams],
) -> list[tuple[PromptLike, Limits, SamplingParams]]:
    """Prompts with their settings, which are one for all or one for each; UserError where they are not as many."""
    each_limits = [limits] * len(prompts) if isinstance(limits, Limits) else list(limits)
    each_sampling = [sampling] * len(prompts) if isinstance(sampling, SamplingParams) else list(sampling)
    if len(each_limits) != len(prompts) or len(each_sampling) != len(prompts):
        raise UserError(f"{len(prompts)} prompts, {len(each_limits)} limits, {len(each_sampling)} samplings")
    return list(zip(prompts, each_limits, each_sampling))
