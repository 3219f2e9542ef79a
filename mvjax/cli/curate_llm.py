"""`mvjax curate llm`: reasoning traces of any kind become parallel transcripts, by a chat model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from mvjax.cli.curate_output import EXIT_INTERRUPTED, check_files, check_not_negative, report_stopped, say, write
from mvjax.curator.production import Problem
from mvjax.curator.store.stored import Added
from mvjax.curator.totals import BUDGET, INTERRUPTED, Totals
from mvjax.data.records import Fault
from mvjax.errors import UserError
from mvjax.hub.cache import Cached

if TYPE_CHECKING:
    from mvjax.curator.checks.likelihood import LikelihoodCheck
    from mvjax.curator.endpoint.client import Endpoint
    from mvjax.curator.settings import Settings


@dataclass(frozen=True)
class Llm(Cached):
    """Turn reasoning traces into parallel transcripts with a chat model: any OpenAI-compatible endpoint serves.

    The form of every reply is checked exactly. Whether paths are independent is not: rules on words filter those that
    lean on a sibling (precision 0.65, recall 0.44 on public blocks), and so do the judge and --likelihood-model.

    Every reply is kept in the store the moment it arrives: after Ctrl-C, a crash or a reached budget, the same command
    goes on and asks nothing twice.
    """

    input: tyro.conf.Positional[Path]
    """JSON Lines file of problems with their reasoning, one object a line."""
    model: str = ""
    """Name of the model at the endpoint."""
    base_url: str = ""
    """Address of the endpoint, such as http://localhost:8000/v1."""
    store: Path = Path("curate.sqlite")
    """Where problems, replies and outcomes are kept (SQLite, one file)."""
    output: Path | None = None
    """Write the records here too, at the end, as `mvjax curate export` does."""
    key_name: str = "OPENAI_API_KEY"
    """Environment variable that holds the endpoint's key."""
    dry_run: bool = False
    """Estimate calls, tokens and cost; ask and spend nothing."""
    limit: int = 0
    """Read only this many problems; 0: all."""
    problem: str = ""
    """Name of the JSON field with the question; by default the usual ones are tried, as for the next four."""
    reasoning: str = ""
    """Name of the field with the reasoning."""
    answer: str = ""
    """Name of the field with the final answer."""
    attempt: str = ""
    """Name of the field with what the model answered its user after its reasoning."""
    id: str = ""
    """Name of the field with the problem's name; without one it is named after its line."""
    prompts: Path | None = None
    """Directory of prompt files that take the place of ours."""
    judge: bool = True
    """Have each path judged by itself."""
    likelihood_model: Path | None = None
    """Score each path with this local model too (GGUF, Hugging Face or Orbax): one that becomes much likelier once its
    siblings are read counts as dependent. Seconds a block on a CPU."""
    likelihood_tokenizer: Path | None = None
    """Its tokenizer, where it is not beside or inside the weights."""
    retries: int = 2
    """How often a stage is asked again, with what was wrong, before it falls back."""
    fallback: Literal["sequential", "reject"] = "sequential"
    """What becomes of a problem that cannot be made parallel."""
    max_tokens: int = 8192
    """Most tokens of a reply."""
    temperature: float | None = None
    """Temperature of the sampling; by default the endpoint's, as for the next two."""
    top_p: float | None = None
    """Sample among the likeliest tokens that hold this much probability."""
    seed: int | None = None
    """Seed of the sampling, for endpoints that have one."""
    extra: str = "{}"
    """Further fields of each request as a JSON object, for options that only your endpoint has."""
    structured: Literal["auto", "schema", "json", "off"] = "auto"
    """How the endpoint is held to the form of a reply."""
    timeout: float = 600
    """Seconds that a reply may take."""
    tries: int = 8
    """How often a call is tried, with growing pauses, before it counts as failed."""
    concurrency: int = 8
    """Calls in flight at the same time."""
    requests_per_minute: float = 0
    """Most requests a minute; 0: no limit."""
    tokens_per_minute: float = 0
    """Most tokens a minute; 0: no limit."""
    price_in: float = 0
    """Price of a million tokens of prompts."""
    price_out: float = 0
    """Price of a million tokens of replies."""
    budget: float = 0
    """Stop before the store's calls have cost more than this; 0: no limit."""
    token_budget: int = 0
    """Stop before the store's calls have taken more tokens than this, prompts and replies; 0: no limit."""
    again: tuple[str, ...] = ()
    """Take up problems again that were rejected for these reasons, such as `endpoint`; see `mvjax curate status`."""
    accept_new_settings: bool = False
    """Go on with other settings than the store was made with; what is done stays as it is."""


def run(command: Llm) -> int:
    """Curate; returns the exit status."""
    from mvjax.curator import llm
    from mvjax.curator.endpoint.client import ChatClient
    from mvjax.curator.endpoint.spending import Prices, Spending
    from mvjax.curator.progress import progress
    from mvjax.curator.run import run
    from mvjax.curator.store import Store
    from mvjax.curator.store.export import Selection

    check(command)
    settings = settings_of(command)
    if command.dry_run:
        return dry_run(command, settings)
    client = ChatClient(endpoint_of(command))
    any(isinstance(entry, Problem) for entry in problems(command))  # before a store is made for nothing
    sampling = {name: getattr(command, name) for name in ("model", "temperature", "top_p", "seed", "extra")}
    scorer = None if command.likelihood_model is None else str(command.likelihood_model)
    kept = {"producer": "llm", **sampling, "likelihood_model": scorer, **settings.fingerprint()}
    spending = Spending(Prices(command.price_in, command.price_out), command.budget, command.token_budget)
    with Store.open(command.store, kept, accept_new_settings=command.accept_new_settings) as store:
        report_input(store.add(problems(command), str(command.input)), command.input)
        for reason in command.again:
            say(f"taken up again: {store.again(reason):,} that were rejected ({reason})")
        totals = run(
            store,
            lambda problem: llm.curate(problem, settings),
            client,
            concurrency=command.concurrency,
            spending=spending,
            progress=progress(),
        )
        report_end(totals, command)
        if totals.stopped == INTERRUPTED:
            return EXIT_INTERRUPTED
        if command.output is not None:
            write(store, command.output, Selection())
    return 0


def check(command: Llm) -> None:
    """Raise UserError for options that make no sense, before anything is read or asked."""
    check_not_negative(
        limit=command.limit,
        retries=command.retries,
        requests_per_minute=command.requests_per_minute,
        tokens_per_minute=command.tokens_per_minute,
        price_in=command.price_in,
        price_out=command.price_out,
        budget=command.budget,
        token_budget=command.token_budget,
        temperature=command.temperature or 0,
        top_p=command.top_p or 0,
    )
    if command.concurrency < 1:
        raise UserError(f"--concurrency {command.concurrency}: must be 1 or more")
    if command.budget and not (command.price_in or command.price_out):
        raise UserError(f"--budget {command.budget}: give --price-in and --price-out too, of a million tokens")
    check_files(command.output, [command.input], command.store)


def settings_of(command: Llm) -> Settings:
    """How to curate."""
    from mvjax.curator import prompt_files
    from mvjax.curator.settings import Settings

    return Settings(
        retries=command.retries,
        fallback=command.fallback,
        judge=command.judge,
        likelihood=None if command.likelihood_model is None else likelihood_of(command),
        max_tokens=command.max_tokens,
        prompts=prompt_files.load(command.prompts),
    )


def likelihood_of(command: Llm) -> LikelihoodCheck:
    """The check by a local model."""
    from mvjax.curator.checks.likelihood import LikelihoodCheck
    from mvjax.curator.local_model import LocalModel

    assert command.likelihood_model is not None
    return LikelihoodCheck(LocalModel.load(command.likelihood_model, tokenizer=command.likelihood_tokenizer))


def endpoint_of(command: Llm) -> Endpoint:
    """Whom to ask."""
    from mvjax.curator.endpoint.client import Endpoint

    try:
        extra = json.loads(command.extra)
    except ValueError as error:
        raise UserError(f"--extra: not JSON ({error})") from error
    if not isinstance(extra, dict):
        raise UserError("--extra: must be a JSON object")
    return Endpoint(
        base_url=command.base_url,
        model=command.model,
        key_name=command.key_name,
        temperature=command.temperature,
        top_p=command.top_p,
        seed=command.seed,
        timeout=command.timeout,
        tries=command.tries,
        requests_per_minute=command.requests_per_minute,
        tokens_per_minute=command.tokens_per_minute,
        structured=command.structured,
        extra=extra,
    ).check()


def problems(command: Llm) -> Iterator[Problem | Fault]:
    """Problems of the input, and lines that are none.

    Raises:
      UserError: the file cannot be read or, at its end, held no problem at all.
    """
    from mvjax.curator.sources.traces import Fields, read_problems

    names = {"id": command.id, "question": command.problem, "reasoning": command.reasoning}
    fields = Fields(**names, answer=command.answer, attempt=command.attempt)
    faults, first, some = 0, None, False
    for entry in read_problems(command.input, fields, limit=command.limit or None):
        if isinstance(entry, Fault):
            faults, first = faults + 1, first or entry
        else:
            some = True
        yield entry
    if first is not None and not some:
        raise UserError(f"{command.input}: none of {faults} lines can be used; {first.name}: {first.reason}")
    if not some:
        raise UserError(f"{command.input}: there is no record in it")


def dry_run(command: Llm, settings: Settings) -> int:
    """Say what the calls that are still to be made will come to, roughly."""
    from mvjax.curator import llm
    from mvjax.curator.endpoint.spending import Prices, estimate
    from mvjax.curator.store import Store

    store = Store.read(command.store) if command.store.exists() else None
    total = done = 0
    sums = (0, 0, 0)
    for entry in problems(command):
        if isinstance(entry, Fault):
            continue
        total += 1
        if store is not None and store.outcome(entry.id) is not None:
            done += 1
            continue
        sums = tuple(map(sum, zip(sums, llm.estimate(entry, settings, estimate))))
    if store is not None:
        store.close()
    calls, sent, received = sums
    print(f"{total:,} problems, {done:,} of them done: about {calls:,} calls for the rest")
    print(f"about {sent:,} tokens of prompts, {received:,} tokens of replies, and whatever is asked again")
    cost = Prices(command.price_in, command.price_out).cost(sent, received)
    if cost:
        beyond = f", more than the budget of {command.budget:,.2f}" if 0 < command.budget < cost else ""
        print(f"about {cost:,.2f} in all{beyond}")
    else:
        print("--price-in and --price-out, of a million tokens, tell the cost too")
    return 0


def report_input(added: Added, path: Path) -> None:
    """What came of the input."""
    parts = [f"{added.new:,} new problems", f"{added.known:,} that the store has already"]
    if added.duplicates:
        parts.append(f"{added.duplicates:,} of the new ones are duplicates")
    say(f"{path}: {', '.join(parts)}")
    if added.first_fault is not None:
        first = added.first_fault
        say(f"{path}: {added.faults:,} lines cannot be used; {first.name}: {first.reason}")


def report_end(totals: Totals, command: Llm) -> None:
    """How the run ended, and how to go on."""
    done = f"{totals.done:,} of {totals.total:,} records are done"
    if totals.stopped == INTERRUPTED:
        report_stopped(totals)
    elif totals.stopped == BUDGET:
        spent = f"the budget is reached, {totals.cost:,.2f} is spent"
        say(f"{spent}: {done}, {totals.left:,} are left; the same command with a larger budget goes on from here")
    else:
        counts = f"{totals.parallel:,} parallel, {totals.sequential:,} sequential, {totals.rejected:,} rejected"
        say(f"{done}: {counts}; `mvjax curate status {command.store}` says why")
