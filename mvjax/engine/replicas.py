"""Several engines behind one queue: the whole model on each of several groups of devices."""

from __future__ import annotations

import collections
import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

from mvjax.engine.engine import (
    DEFAULT_LIMITS,
    GREEDY,
    Engine,
    OnTokens,
    PromptLike,
    QueueFull,
    WarmUp,
    each_setting,
)
from mvjax.engine.limits import EngineConfig, Limits, Mode
from mvjax.engine.prompt import Prompt
from mvjax.engine.request import TokenUpdate
from mvjax.engine.result import Result
from mvjax.engine.sampling_params import SamplingParams
from mvjax.engine.stats import EngineStats
from mvjax.errors import UserError


def engine_over(models: Sequence[Any], tokenizer: Any, config: EngineConfig | None = None) -> Engine | Replicas:
    """The engine of a model, or one for each of its copies (`mvjax.models.copies`) with one queue; config: sizes of
    each."""
    config = config or EngineConfig()
    if len(models) == 1:
        return Engine(models[0], models[0].params, tokenizer, config)
    sizes = dataclasses.replace(config, max_queue=None)
    return Replicas([Engine(model, model.params, tokenizer, sizes) for model in models], config.max_queue)


@dataclasses.dataclass
class Waiting:
    """A request that no engine has yet."""

    number: int
    prompt: PromptLike
    options: dict[str, Any]
    """Of `Engine.submit`, without the deadline."""
    deadline: float | None
    """As `time.perf_counter` counts."""
    cancelled: bool = False
    dropped: bool = False


class Handed(NamedTuple):
    """Where a request is."""

    replica: int
    number: int
    """Its number there."""


class Stay(NamedTuple):
    """What a call of `Engine.step` made."""

    results: list[Result]
    updates: list[TokenUpdate]
    stats: EngineStats


class Replicas:
    """Engines of the same model and sizes, used as one `Engine` is, see there. One caller at a time; `cancel` may come
    from another thread.

    Requests wait here, in order, and go to an engine that has a place free: to the one that holds most of the prompt's
    beginning in its pages, of those to the least busy. Each engine steps in a thread of its own; `step` returns when
    the first of those that are in a stay is back. An answer is a function of its own request, so it does not matter
    which engine gives it.
    """

    def __init__(self, engines: Sequence[Engine], max_queue: int | None = None):
        """engines: with no limit of their own queues; max_queue: as `EngineConfig.max_queue`, of all of them."""
        first = engines[0]
        self.engines = list(engines)
        self.model, self.tokenizer, self.vocabulary = first.model, first.tokenizer, first.vocabulary
        self.has_tags, self.max_slots, self.max_position = first.has_tags, first.max_slots, first.max_position
        self.config = dataclasses.replace(
            first.config, requests=len(engines) * first.config.requests, max_queue=max_queue
        )
        """`requests` and `max_queue` are those of all engines together, the rest is as each has it."""
        self._threads = ThreadPoolExecutor(len(engines), thread_name_prefix="replica")
        self._lock = threading.Lock()
        self._next = 0
        self._clear()

    def _clear(self) -> None:
        self._queue: collections.deque[Waiting] = collections.deque()
        self._handed: dict[int, Handed] = {}
        self._numbers: list[dict[int, int]] = [{} for _ in self.engines]
        self._stays: list[Future | None] = [None] * len(self.engines)
        self._results: list[Result] = []
        self._stats = [engine.stats() for engine in self.engines]

    @property
    def busy(self) -> bool:
        """As `Engine.busy`."""
        return bool(self._queue or self._handed or self._results)

    @property
    def compilations(self) -> int:
        """As `Engine.compilations`, of all engines."""
        return sum(engine.compilations for engine in self.engines)

    @property
    def cold_compilations(self) -> int:
        """As `Engine.cold_compilations`, of all engines."""
        return sum(engine.cold_compilations for engine in self.engines)

    def stats(self) -> EngineStats:
        """The sums over all engines, each as it was after its last step; what waits here waits."""
        sums = EngineStats(*[sum(counts) for counts in zip(*self._stats, strict=True)])
        return sums._replace(waiting=sums.waiting + len(self._queue))

    def warm_up(self) -> WarmUp:
        """As `Engine.warm_up`: the first engine, then the others at the same time, which find what they need in JAX's
        persistent cache where there is one."""
        start = time.perf_counter()
        warm = [self.engines[0].warm_up()]
        warm += self._threads.map(lambda engine: engine.warm_up(), self.engines[1:])
        self._stats = [engine.stats() for engine in self.engines]
        return WarmUp(sum(one.programs for one in warm), time.perf_counter() - start)

    def check(
        self, prompt: PromptLike, limits: Limits, sampling: SamplingParams = GREEDY, mode: Mode = "parallel"
    ) -> None:
        """As `Engine.check`."""
        self.engines[0].check(prompt, limits, sampling, mode)

    def next_turn(self, prompt: PromptLike, result: Result, tokens: Sequence[int]) -> Prompt:
        """As `Engine.next_turn`."""
        return self.engines[0].next_turn(prompt, result, tokens)

    def generate(
        self,
        prompts: Sequence[PromptLike],
        *,
        limits: Limits | Sequence[Limits] = DEFAULT_LIMITS,
        sampling: SamplingParams | Sequence[SamplingParams] = GREEDY,
        mode: Mode = "parallel",
        on_tokens: OnTokens | None = None,
    ) -> list[Result]:
        """As `Engine.generate`."""
        if self.busy:
            raise UserError("these engines are busy with other requests; wait for them, or use submit and step")
        settings = each_setting(prompts, limits, sampling)
        for prompt, its_limits, its_sampling in settings:
            self.check(prompt, its_limits, its_sampling, mode)
        self._next, results = 0, dict[int, Result]()
        try:
            for prompt, its_limits, its_sampling in settings:
                self._enqueue(prompt, {"limits": its_limits, "sampling": its_sampling, "mode": mode}, None)
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
        """As `Engine.submit`."""
        waiting, most = self.stats().waiting, self.config.max_queue
        if most is not None and waiting >= most:
            raise QueueFull(f"{waiting} requests wait, as many as the queue takes (EngineConfig.max_queue); try later")
        self.check(prompt, limits, sampling, mode)
        options = {"limits": limits, "sampling": sampling, "mode": mode}
        return self._enqueue(prompt, options, None if deadline is None else time.perf_counter() + deadline)

    def _enqueue(self, prompt: PromptLike, options: dict[str, Any], deadline: float | None) -> int:
        self._queue.append(Waiting(self._next, prompt, options, deadline))
        self._next += 1
        return self._next - 1

    def cancel(self, number: int, *, drop: bool = False) -> None:
        """As `Engine.cancel`."""
        with self._lock:
            if (handed := self._handed.get(number)) is not None:
                self.engines[handed.replica].cancel(handed.number, drop=drop)
            for waiting in self._queue:
                if waiting.number == number:
                    waiting.cancelled, waiting.dropped = True, waiting.dropped or drop

    def step(self, on_tokens: OnTokens | None = None) -> list[Result]:
        """As `Engine.step`, of the engines that are back from their stays; the others go on."""
        self._hand_out()
        for replica, engine in enumerate(self.engines):
            if self._stays[replica] is None and engine.busy:
                self._stays[replica] = self._threads.submit(stay, engine, on_tokens is not None)
        running = [future for future in self._stays if future is not None]
        if running:
            wait(running, return_when=FIRST_COMPLETED)
        updates: list[TokenUpdate] = []
        for replica, future in enumerate(self._stays):
            if future is not None and future.done():
                self._stays[replica] = None
                self._take(replica, future.result(), updates)
        if updates and on_tokens is not None:
            on_tokens(updates)
        results, self._results = self._results, []
        return results

    def reset(self) -> None:
        """As `Engine.reset`, once the engines are back from their stays."""
        wait([future for future in self._stays if future is not None])
        for engine in self.engines:
            engine.reset()
        self._clear()

    def _hand_out(self) -> None:
        """Requests to engines that are not in a stay and have places, the oldest first."""
        with self._lock:
            while self._queue and (places := self._places()):
                waiting = self._queue.popleft()
                if len(places) > 1:
                    prompt, mode = waiting.prompt, waiting.options["mode"]
                    places.sort(key=lambda place: (-self.engines[place[1]].known(prompt, mode), *place))
                replica = places[0][1]
                engine = self.engines[replica]
                left = None if waiting.deadline is None else waiting.deadline - time.perf_counter()
                number = engine.submit(waiting.prompt, deadline=left, **waiting.options)
                self._handed[waiting.number] = Handed(replica, number)
                self._numbers[replica][number] = waiting.number
                if waiting.cancelled:
                    engine.cancel(number, drop=waiting.dropped)

    def _places(self) -> list[tuple[int, int]]:
        """Requests and index of each engine that can take one more."""
        counts = [(len(numbers), replica) for replica, numbers in enumerate(self._numbers)]
        most = self.engines[0].config.requests
        return [place for place in counts if place[0] < most and self._stays[place[1]] is None]

    def _take(self, replica: int, made: Stay, updates: list[TokenUpdate]) -> None:
        """What an engine has made, under the numbers that requests have here."""
        numbers = self._numbers[replica]
        updates += [update._replace(request=numbers[update.request]) for update in made.updates]
        self._stats[replica] = made.stats
        with self._lock:
            for result in made.results:
                number = numbers.pop(result.request)
                del self._handed[number]
                self._results.append(dataclasses.replace(result, request=number))


def stay(engine: Engine, streams_tokens: bool) -> Stay:
    """One step of an engine."""
    updates: list[TokenUpdate] = []
    collect: Callable | None = updates.extend if streams_tokens else None
    return Stay(engine.step(collect), updates, engine.stats())
