"""Many requests at once: tokens a second, the time to the first token, a step's time and its rows, beside one request
alone and the bare forward of as many rows."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mvjax.bench.bare import BareLoop
from mvjax.bench.config import SYNC, EngineBench
from mvjax.bench.report import Bar, Report
from mvjax.bench.timing import CompilationCounter, Spread, alternate, ratios
from mvjax.engine import SamplingParams
from mvjax.engine.engine import Engine
from mvjax.engine.limits import EngineConfig, Limits
from mvjax.models import DecoderStepModel

TITLE = "requests at once"
TO_THE_END = SamplingParams(ignore_eos=True)
"""Every request makes as many tokens as it may."""


class Stay(NamedTuple):
    """One call of `Engine.step`."""

    seconds: float
    made: dict[int, int]
    """Tokens by request."""
    starts: bool
    """A request's first token is among them, so that its prefill may be in the time."""

    @property
    def steps(self) -> int:
        """Steps of the loop: a request with one branch makes a token in each."""
        return max(self.made.values(), default=0)

    @property
    def rows(self) -> float:
        """Rows of a step, in the mean."""
        return sum(self.made.values()) / self.steps if self.made else 0.0


class Served(NamedTuple):
    """Requests that came at the same moment, all of them answered."""

    seconds: float
    """From their arrival to the last result."""
    first_R: list[float]
    """Seconds until each request's first token, in the order of arrival."""
    stays: list[Stay]

    @property
    def tokens(self) -> int:
        """New tokens of all requests."""
        return sum(sum(stay.made.values()) for stay in self.stays)

    @property
    def rows(self) -> float:
        """Rows of a step, in the mean over all steps."""
        return self.tokens / sum(stay.steps for stay in self.stays)

    def steady(self) -> tuple[float, float]:
        """Rows and median seconds of a step in the fullest stays that hold no prefill."""
        stays = [stay for stay in self.stays if stay.made and not stay.starts]
        most = max(stay.rows for stay in stays)
        return most, statistics.median(stay.seconds / stay.steps for stay in stays if stay.rows == most)


def serve(engine: Engine, prompts: Sequence[Sequence[int]], new_tokens: int) -> Served:
    """Answer prompts that come together, without blocks."""
    start, first, stays = time.perf_counter(), {}, []
    for prompt in prompts:
        number = engine.submit(
            prompt, limits=Limits(max_new_tokens=new_tokens), sampling=TO_THE_END, mode="autoregressive"
        )
        first[number] = None
    while engine.busy:
        made: Counter[int] = Counter()
        began = time.perf_counter()
        engine.step(lambda updates, made=made: made.update({update.request: len(update.tokens) for update in updates}))
        ended = time.perf_counter()
        starting = [number for number in made if first[number] is None]
        first |= dict.fromkeys(starting, ended - start)
        stays.append(Stay(ended - began, dict(made), bool(starting)))
    return Served(time.perf_counter() - start, list(first.values()), stays)


def prompts_of(vocabulary: Any, count: int, length: int) -> list[list[int]]:
    """Prompts of plain text that no two have a beginning of in common, for a tokenizer's `VocabularyTables`."""
    text = np.flatnonzero((vocabulary.codes < 0) & ~vocabulary.newline)
    places = np.arange(length) * 7
    return [text[(places + number * (length + 1)) % len(text)].tolist() for number in range(count)]


def measure_many(
    config: EngineBench, model: DecoderStepModel, tokenizer: Any, report: Report, say: Callable[[str], None]
) -> None:
    """Fill the report's table. The numbers of requests take turns."""
    slots = config.prompt_tokens + config.new_tokens + config.max_branches
    sizes = EngineConfig(
        requests=config.requests[-1],
        max_branches=config.max_branches,
        row_counts=config.requests,
        max_slots=slots,
        share_pages=False,
        sync_steps=SYNC,
        stream_steps=SYNC,
    )
    engine = Engine(model, model.params, tokenizer, sizes)
    say("requests at once: compiling the engine's programs")
    engine.warm_up()
    prompts = prompts_of(tokenizer.tables(), config.requests[-1], config.prompt_tokens)
    bare = {}
    for count in config.requests:
        say(f"compiling the bare forward for {count} requests")
        bare[count] = BareLoop(model, model.params, count, slots, prompt=config.prompt_tokens, requests=count)

    def side(count: int) -> Callable[[], tuple[Served, float]]:
        return lambda: (serve(engine, prompts[:count], config.new_tokens), bare[count]())

    sides = {count: side(count) for count in config.requests}
    say("requests at once: warm-up")
    for run in sides.values():
        run()
    before = engine.compilations
    with CompilationCounter().counting() as compiled:
        found = alternate(sides, config.repeat, warm=0, say=lambda text: say(f"requests at once: {text}"))
    recompiled = engine.compilations - before

    alone = [served for served, _ in found[1]]
    per_second = {count: [served.tokens / served.seconds for served, _ in runs] for count, runs in found.items()}
    table = report.tables.setdefault(TITLE, [])
    for count, runs in found.items():
        steady = [served.steady() for served, _ in runs]
        row = {
            "requests": count,
            "tokens/s": Spread.of(per_second[count]),
            "times one": ratios(per_second[count], per_second[1]),
            "first token s": Spread.of([served.first_R[0] for served, _ in runs]),
            "last one's s": Spread.of([max(served.first_R) for served, _ in runs]),
            "last over alone": ratios((max(served.first_R) for served, _ in runs), (one.first_R[0] for one in alone)),
            "rows of a step": Spread.of([served.rows for served, _ in runs]),
            "step ms": Spread.of([1e3 * seconds for _, seconds in steady]),
        }
        if all(rows == count for rows, _ in steady):
            row["step/bare"] = ratios((seconds for _, seconds in steady), (step for _, step in runs))
        table.append(row)
    report.bars.append(Bar("requests at once: programs compiled by the engine", float(recompiled), 0))
    report.bars.append(Bar("requests at once: programs compiled by anybody", float(compiled.count), 0))
    report.notes.append(
        f"requests at once: all come at the same moment, prompts of {config.prompt_tokens} tokens, {config.new_tokens} "
        f"new ones each, no blocks, {SYNC} steps a stay; a step's time is that of stays without a prefill in which the "
        "most requests run, beside the bare forward over as many contiguous streams"
    )
