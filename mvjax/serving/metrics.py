"""Prometheus metrics of a server: vLLM's names where it has one, so that routers and dashboards read them, and ours."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

if TYPE_CHECKING:
    from mvjax.engine.request import TokenUpdate
    from mvjax.engine.result import Result
    from mvjax.engine.stats import EngineStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of what `Metrics.page` returns."""

FINISHED = {"stop": "stop", "tokens": "length", "positions": "length", "cancelled": "abort", "deadline": "abort"}
"""vLLM's word for why a request ended; any other reason is "error"."""

FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10, 20, 40)
REQUEST = (0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
DEGREE = (1, 1.1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, 16)
"""Upper bounds of the histograms' buckets: seconds, tokens, # parallel."""

GAUGES = {
    "vllm:num_requests_running": ("running", "Requests on the device."),
    "vllm:num_requests_waiting": ("waiting", "Requests in the queue."),
    "mvjax:rows_live": ("rows", "Branches that run, of all requests."),
    "mvjax:pages_used": ("pages_used", "Pages of keys and values in use."),
    "mvjax:pages": ("pages", "Pages of keys and values there are."),
    "mvjax:programs": ("programs", "Compiled programs."),
}
"""Metric: the field of `EngineStats` that it shows, and its help."""

COUNTERS = {
    "vllm:num_preemptions": ("preemptions", "Times that a request left the device for want of pages."),
    "vllm:prefix_cache_queries": ("prefix_queries", "Prompt tokens looked up among pages that are there."),
    "vllm:prefix_cache_hits": ("prefix_hits", "Prompt tokens found in pages that were there."),
    "vllm:gpu_prefix_cache_queries": ("prefix_queries", "vllm:prefix_cache_queries by its older name."),
    "vllm:gpu_prefix_cache_hits": ("prefix_hits", "vllm:prefix_cache_hits by its older name."),
    "vllm:prompt_tokens": ("prompt_tokens", "Prompt tokens of the requests that were started."),
    "vllm:generation_tokens": ("generation_tokens", "New tokens, those that the interpreter wrote included."),
    "mvjax:decode_steps": ("steps", "Model steps of the generation loop."),
    "mvjax:cold_compilations": ("cold_compilations", "Programs compiled after the server was ready."),
}
"""The same for counts, whose names get _total."""


@dataclass
class Times:
    """When what happened to a request, on the observer's clock."""

    submitted: float
    prompt_tokens: int
    first: float = 0.0
    """Its first token; 0: none yet."""
    last: float = 0.0
    """Its last tokens so far."""
    tokens: int = 0


class Metrics:
    """An observer of the driver that fills collectors in a registry of its own.

    Args:
        model_name: label of every metric, as the API names the model.
        page_slots: tokens that a page holds, for `vllm:cache_config_info`.
        clock: seconds.
    """

    def __init__(self, model_name: str, *, page_slots: int = 0, clock: Callable[[], float] = time.perf_counter):
        self.registry = CollectorRegistry()
        self._clock, self._page_slots = clock, page_slots
        self._times: dict[int, Times] = {}
        self._seen: dict[str, int] = {}
        names, values = ["model_name"], [model_name]

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, names, registry=self.registry).labels(*values)

        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, names, registry=self.registry).labels(*values)

        def histogram(name: str, text: str, bounds: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, names, registry=self.registry, buckets=bounds).labels(*values)

        self._gauges = {field: gauge(name, text) for name, (field, text) in GAUGES.items()}
        self._counters = [(field, counter(name, text)) for name, (field, text) in COUNTERS.items()]
        share = "Share of the pages of keys and values in use, 0 to 1."
        self._usage = [gauge("vllm:kv_cache_usage_perc", share), gauge("vllm:gpu_cache_usage_perc", share)]
        self._cache = Gauge(
            "vllm:cache_config_info",
            "Sizes of the pages of keys and values, as labels.",
            [*names, "block_size", "num_gpu_blocks"],
            registry=self.registry,
        )
        self._ended = Counter(
            "vllm:request_success", "Requests that ended, by reason.", [*names, "finished_reason"],
            registry=self.registry,
        )  # fmt: skip
        self._cuts = Counter(
            "mvjax:cut_branches", "Branches that a limit or a cancellation ended.", [*names, "reason"],
            registry=self.registry,
        )  # fmt: skip
        self._names = values
        self._first = histogram("vllm:time_to_first_token_seconds", "From the call to the first token.", FIRST_TOKEN)
        self._gap = histogram(
            "vllm:inter_token_latency_seconds",
            "Between two tokens of a branch: of each stay in the loop, its time over the tokens of the longest branch.",
            TOKEN,
        )
        self._each = histogram(
            "vllm:request_time_per_output_token_seconds",
            "From the first token to the end, over the tokens of all branches.",
            TOKEN,
        )
        self._whole = histogram("vllm:e2e_request_latency_seconds", "From the call to the end.", REQUEST)
        self._queue = histogram("vllm:request_queue_time_seconds", "From the call to admission.", REQUEST)
        self._prefill = histogram("vllm:request_prefill_time_seconds", "Prefill of the prompt.", REQUEST)
        self._decode = histogram("vllm:request_decode_time_seconds", "From the first step to the end.", REQUEST)
        self._prompt = histogram("vllm:request_prompt_tokens", "Prompt tokens of a request.", TOKENS)
        self._answer = histogram("vllm:request_generation_tokens", "New tokens of a request.", TOKENS)
        self._path = histogram("mvjax:critical_path_tokens", "Critical path of a request, in positions.", TOKENS)
        self._degree = histogram("mvjax:degree", "# parallel: new tokens over critical path.", DEGREE)
        self._stay = histogram("mvjax:stay_seconds", "One step of the engine: admission, prefill, a stay.", TOKEN)
        self._barred = counter("mvjax:barred_tokens", "Tokens whose first choice the grammar barred.")
        self._abandoned = counter("mvjax:abandoned_blocks", "Blocks closed without a path.")
        ProcessCollector(registry=self.registry)

    def page(self) -> bytes:
        """All metrics as Prometheus reads them (`CONTENT_TYPE`)."""
        return generate_latest(self.registry)

    def submitted(self, ticket: int, request_id: str, prompt_tokens: int) -> None:
        self._times[ticket] = Times(self._clock(), prompt_tokens)

    def tokens(self, ticket: int, updates: list[TokenUpdate]) -> None:
        times, now = self._times.get(ticket), self._clock()
        longest = max((len(update.tokens) for update in updates), default=0)
        if times is None or not longest:
            return
        if times.first:
            self._gap.observe((now - times.last) / longest)
        else:
            times.first = now
            self._first.observe(now - times.submitted)
        times.last, times.tokens = now, times.tokens + sum(len(update.tokens) for update in updates)

    def ended(self, ticket: int, result: Result | None, error: Exception | None) -> None:
        times, now = self._times.pop(ticket, None), self._clock()
        reason = FINISHED.get(result.reason, "error") if result is not None and error is None else "error"
        self._ended.labels(*self._names, reason).inc()
        if times is None:
            return
        self._whole.observe(now - times.submitted)
        self._prompt.observe(times.prompt_tokens)
        if result is None:
            return
        self._queue.observe(result.timings.queued)
        self._barred.inc(result.barred)
        self._abandoned.inc(result.abandoned)
        for why in result.cuts.values():
            self._cuts.labels(*self._names, why).inc()
        if result.new_tokens:
            self._prefill.observe(max(result.timings.prefill, 0.0))
            self._decode.observe(max(result.timings.decode, 0.0))
            self._answer.observe(result.new_tokens)
            self._path.observe(result.critical_path)
            self._degree.observe(result.degree)
            if times.first and times.tokens > 1:
                self._each.observe((now - times.first) / (times.tokens - 1))

    def stay(self, stats: EngineStats, seconds: float) -> None:
        for field, gauge in self._gauges.items():
            gauge.set(getattr(stats, field))
        for field, counter in self._counters:
            # An engine that was built again counts from 0.
            now, before = getattr(stats, field), self._seen.get(field, 0)
            counter.inc(now - before if now >= before else now)
        self._seen = {field: getattr(stats, field) for field, _ in self._counters}
        for usage in self._usage:
            usage.set(stats.pages_used / stats.pages if stats.pages else 0.0)
        self._cache.clear()  # The engine may have been built again with other sizes.
        self._cache.labels(*self._names, str(self._page_slots), str(stats.pages)).set(1)
        self._stay.observe(seconds)
