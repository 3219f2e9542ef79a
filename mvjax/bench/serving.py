"""The server beside its bare engine: tokens a second, the time to the first token, the longest silence, a cancel."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mvjax.bench import raw_client
from mvjax.bench.config import ParallelBench, ServingBench
from mvjax.bench.many_requests import prompts_of
from mvjax.bench.parallel import find_adapter, synthetic_items
from mvjax.bench.report import Bar, Report
from mvjax.bench.timing import Spread, alternate, ratios
from mvjax.engine import Engine, EngineConfig, EngineStats, Limits, Mode, SamplingParams
from mvjax.errors import UserError

THROUGHPUT_BAR, CANCEL_BAR = 0.95, 2


class Question(NamedTuple):
    """A request, as the engine and as a client of the server puts it."""

    prompt: list[int]
    limits: Limits
    sampling: SamplingParams
    mode: Mode

    @property
    def body(self) -> dict[str, Any]:
        """Of POST /v1/completions."""
        tokens, ends = self.limits.max_new_tokens, self.sampling.ignore_eos
        return {"prompt": self.prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": ends, "mode": self.mode}


class Wave(NamedTuple):
    """Requests that came at the same moment, all of them answered."""

    seconds: float
    tokens: int
    first: list[float]
    """Seconds until each request's first token."""
    gap: float
    """The longest silence of any after its first token."""
    cpu: float = 0.0
    """Processor seconds of the client."""

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


def measure(config: ServingBench, report: Report, say: Callable[[str], None]) -> None:
    """Fill the report. Engine and server take turns; both have engines of the same programs."""
    from mvjax.models.load import load_for_generation
    from mvjax.serving.driver import Driver

    adapter = find_adapter(config.adapter)
    say("loading the model")
    tokenizer, model = load_for_generation(config.model, adapter, tokenizer=config.tokenizer, **config.loading)
    sizes = EngineConfig(
        requests=config.concurrency[-1],
        max_branches=config.max_branches,
        max_slots=config.slots,
        share_pages=False,  # Each repetition asks the same.
    )
    questions = {mode: questions_of(config, tokenizer, mode) for mode in config.modes}
    engine, watch = Engine(model, model.params, tokenizer, sizes), Watch()
    driver = Driver(lambda: Engine(model, model.params, tokenizer, sizes), observers=[watch])
    say("compiling")
    warm = engine.warm_up()
    driver.start()
    with served(driver, tokenizer) as address:
        sides = {}
        for mode, its in questions.items():
            for count in config.concurrency:
                sides[mode, count, "engine"] = lambda its=its, count=count: bare(engine, its[:count])
                sides[mode, count, "server"] = lambda its=its, count=count: through(address, its[:count])
        found = alternate(sides, config.repeat, say=lambda text: say(text))
        say("cancelling")
        stays = cancel(address, driver, watch, questions[config.modes[0]][0])
        compiled = driver.stats().cold_compilations
    driver.stop()
    for mode in questions:
        for count in config.concurrency:
            report.rows.append(row(mode, count, found[mode, count, "engine"], found[mode, count, "server"], report))
    report.bars.append(Bar("programs compiled after ready", float(compiled), 0))
    report.bars.append(Bar("stays from a disconnect to free pages", float(stays), CANCEL_BAR))
    report.notes.append(
        f"{warm.programs} programs; all requests of a row come at the same moment, as streams, greedy; client s: "
        "processor seconds of the client, a process of its own with raw sockets on the same machine"
    )


def row(mode: Mode, count: int, engine: Sequence[Wave], server: Sequence[Wave], report: Report) -> dict[str, Any]:
    """The figures of a mode and a number of requests."""
    over = ratios((wave.rate for wave in server), (wave.rate for wave in engine))
    report.bars.append(Bar(f"tokens a second over the engine's, {mode}, {count}", over, THROUGHPUT_BAR, at_most=False))
    if [wave.tokens for wave in engine] != [wave.tokens for wave in server]:
        report.notes.append(f"{mode}, {count} requests: the server's answers have other numbers of tokens")
    return {
        "mode": mode,
        "requests": count,
        "tokens": server[0].tokens,
        "engine tokens/s": Spread.of([wave.rate for wave in engine]),
        "server tokens/s": Spread.of([wave.rate for wave in server]),
        "server/engine": over,
        "median first token s": Spread.of([statistics.median(wave.first) for wave in server]),
        "over the engine's": ratios(*([statistics.median(wave.first) for wave in waves] for waves in (server, engine))),
        "last first token s": Spread.of([max(wave.first) for wave in server]),
        "longest silence s": Spread.of([wave.gap for wave in server]),
        "client s": Spread.of([wave.cpu for wave in server]),
    }


def questions_of(config: ServingBench, tokenizer: Any, mode: Mode) -> list[Question]:
    """As many as are asked at once at most."""
    most = config.concurrency[-1]
    if mode == "autoregressive":
        limits, sampling = Limits(max_new_tokens=config.new_tokens), SamplingParams(ignore_eos=True)
        prompts = prompts_of(tokenizer.tables(), most, config.prompt_tokens)
        return [Question(prompt, limits, sampling, mode) for prompt in prompts]
    dials = ParallelBench(items=most, slots=config.slots, max_branches=config.max_branches)
    items = synthetic_items(dials, tokenizer, config.degree)
    return [Question(list(item.prompt), item.limits, SamplingParams(), mode) for item in items]


def bare(engine: Engine, questions: Sequence[Question]) -> Wave:
    """Put questions to an engine, as a server does."""
    start, last, gap, first, tokens = time.perf_counter(), {}, 0.0, {}, Counter()
    for prompt, limits, sampling, mode in questions:
        engine.submit(prompt, limits=limits, sampling=sampling, mode=mode)

    def hear(updates) -> None:
        nonlocal gap
        now = time.perf_counter()
        for request in {update.request for update in updates}:
            first.setdefault(request, now - start)
            gap = max(gap, now - last.get(request, now))
            last[request] = now

    while engine.busy:
        for result in engine.step(hear):
            tokens[result.request] = result.raise_if_failed().new_tokens
    return Wave(time.perf_counter() - start, sum(tokens.values()), list(first.values()), gap)


def through(address: tuple[str, int], questions: Sequence[Question]) -> Wave:
    """Put questions to a server, from another process."""
    asked = {"host": address[0], "port": address[1], "bodies": [question.body for question in questions]}
    command = [sys.executable, "-S", str(Path(raw_client.__file__))]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"the client ended with {done.returncode}: {done.stderr[-300:]}")
    seen = json.loads(done.stdout)
    if errors := [answer["error"] for answer in seen["answers"] if "error" in answer]:
        raise UserError(f"{len(errors)} of {len(questions)} requests were not answered: {errors[0]}")
    answers = seen["answers"]
    first, tokens = [answer["first"] for answer in answers], sum(answer["tokens"] for answer in answers)
    return Wave(seen["seconds"], tokens, first, max(answer["gap"] for answer in answers), seen["cpu"])


class Watch:
    """Counts stays of the driver's engine."""

    def __init__(self):
        self.stays = 0
        self.stats: EngineStats | None = None

    def submitted(self, ticket: int, request_id: str, prompt_tokens: int) -> None:
        """Nothing."""

    def tokens(self, ticket: int, updates: Any) -> None:
        """Nothing."""

    def ended(self, ticket: int, result: Any, error: Any) -> None:
        """Nothing."""

    def stay(self, stats: EngineStats, seconds: float) -> None:
        self.stats = stats
        self.stays += 1


def cancel(address: tuple[str, int], driver: Any, watch: Watch, question: Question) -> int:
    """Stays of the engine between the moment when a client goes away and that when its pages are free."""
    room = driver.max_slots - len(question.prompt)
    question = question._replace(limits=dataclasses.replace(question.limits, max_new_tokens=room))
    stream = raw_client.Stream(address, question.body)
    stream.send()
    while not stream.times:
        stream.read()
    before = watch.stays
    stream.socket.close()
    until = time.monotonic() + 60
    while driver.stats().pages_used:
        if time.monotonic() > until:
            raise UserError("a client went away, and a minute later its pages are still in use")
        time.sleep(0.0005)
    return watch.stays - before


@contextlib.contextmanager
def served(driver: Any, tokenizer: Any) -> Generator[tuple[str, int]]:
    """A server in a thread of this process; its address."""
    from mvjax.serving.app import create_app
    from mvjax.serving.server import Connections, Server, bind
    from mvjax.serving.settings import ServingConfig

    config, connections, listening = ServingConfig(), Connections(), bind("127.0.0.1", 0)
    app = create_app(driver, config, abort=connections.abort)
    server = Server(app, driver, connections, config.drain)
    ready = threading.Event()
    server.ready = ready.set
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    if not ready.wait(60):
        raise UserError("the server did not start")
    try:
        yield listening.getsockname()[:2]
    finally:
        server.should_exit = True
        thread.join(30)
        app.state.service.close()
