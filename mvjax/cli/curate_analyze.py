"""`mvjax curate analyze` and `probe`: hidden parallelism of traces, and what a model's states know of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mvjax.cli.curate_output import check_not_negative, say
from mvjax.data.formats import FormatName
from mvjax.errors import UserError
from mvjax.hub.cache import Cached

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mvjax.curator.analysis.splits import Measure, Trace

SQLITE = b"SQLite format 3\0"


@dataclass(frozen=True)
class Analyze(Cached):
    """How much of traces is parallelisable: kinds of branches beside the paper's, and the attainable # parallel.

    A store tells what its stages, or its labels, found; a file of records tells what its transcripts hold; both without
    any call. Raw traces are labelled first, one call each, where an endpoint is given (--base-url, --model).
    """

    input: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="STORE|RECORDS|TRACES")]
    """A store of `mvjax curate`, a JSON Lines file of records, or one of traces as `mvjax curate llm` reads them."""
    base_url: str = ""
    """Address of the endpoint that is to label raw traces, such as http://localhost:8000/v1."""
    model: str = ""
    """Name of the model there."""
    key_name: str = "OPENAI_API_KEY"
    """Environment variable that holds the endpoint's key."""
    format: FormatName = "auto"
    """What the rows of a file of records are, as for `mvjax train --data.format`; auto: by the keys of the first."""
    store: Path = Path("labels.sqlite")
    """Where the labels are kept: the same command goes on where it was stopped, and asks nothing twice."""
    retries: int = 2
    """How often a trace is asked about again, with what was wrong with the reply."""
    max_tokens: int = 8192
    """Most tokens of a reply; a weak model may else write on to the end of its context."""
    concurrency: int = 8
    """Calls in flight at the same time."""
    limit: int = 0
    """Look at only this many; 0: all."""
    tokenizer: Path | None = None
    """Measure lengths in this tokenizer's tokens instead of words."""
    plot: Path | None = None
    """Draw the table into this PNG."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class Probe(Cached):
    """Whether a model's hidden states at the ends of lines predict that what follows is parallel.

    A logistic regression on the states, judged on problems that it has not seen, beside chance.
    """

    records: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RECORDS")]
    """JSON Lines file of records, as `mvjax curate export` writes them."""
    model: Path = Path("downloads/SmolLM2-135M-Instruct.Q4_1.gguf")
    """Weights: a GGUF file, a Hugging Face directory or an Orbax directory."""
    tokenizer: Path | None = None
    """The tokenizer, where it is not beside or inside the weights: a directory, a tokenizer.json or a .model file."""
    adapter: Path | None = None
    """LoRA adapter (safetensors)."""
    layers: tuple[int, ...] = ()
    """Layers whose states are looked at; 0 is the embedding. By default five, from the first to the last."""
    format: FormatName = "auto"
    """What the rows of the file are, as for `mvjax train --data.format`; auto: by the keys of the first."""
    forms: tuple[Literal["multiverse", "autoregressive"], ...] = ("multiverse", "autoregressive")
    """In which form the records are read."""
    points: tuple[Literal["start", "line"], ...] = ("start", "line")
    """Points to look at: the start of the response, the ends of its lines."""
    limit: int = 0
    """Read only this many records; 0: all."""
    shuffles: int = 10
    """How often the labels are shuffled, for comparison."""
    plot: Path | None = None
    """Draw the AUC by layer into this PNG."""
    json: bool = False
    """Print JSON."""


def run_analyze(command: Analyze) -> int:
    """Analyse, and print."""
    from mvjax.curator.analysis.parallelism import analyze, table
    from mvjax.curator.analysis.splits import words

    check_not_negative(limit=command.limit)
    check_plot(command.plot, command.input)
    if command.base_url or command.model:
        status = label(command)
        if status:
            return status
        command = replace(command, input=command.store)
    measure: Measure = words
    if command.tokenizer is not None:
        from mvjax.hub import local_path
        from mvjax.tokenizers.load import load_tokenizer

        tokenizer = load_tokenizer(local_path(command.tokenizer, "tokenizer"))

        def measure(text: str) -> int:
            return len(tokenizer.encode(text))

    result = analyze(traces(command, measure), "words" if command.tokenizer is None else "tokens")
    if not result.traces:
        raise UserError(f"{command.input}: nothing in it says what is parallel: no problem of it ended well")
    note = None
    if command.plot is not None:
        from mvjax.curator.analysis import plots

        note = plots.branches(command.plot, result)
    show(result.to_dict() if command.json else table(result, str(command.input)), note)
    return 0


def label(command: Analyze) -> int:
    """Have raw traces labelled, into the store; returns the exit status."""
    from mvjax.cli import curate_llm
    from mvjax.curator.endpoint.client import ChatClient
    from mvjax.curator.progress import progress
    from mvjax.curator.run import run
    from mvjax.curator.stages.labels import STAGE, label
    from mvjax.curator.store import Store
    from mvjax.curator.totals import INTERRUPTED

    names = ("input", "base_url", "model", "key_name", "store", "retries", "max_tokens", "concurrency", "limit")
    asked = curate_llm.Llm(**{name: getattr(command, name) for name in names})
    curate_llm.check(asked)
    settings = curate_llm.settings_of(asked)
    client = ChatClient(curate_llm.endpoint_of(asked))
    kept = {"producer": STAGE, "model": command.model, "retries": settings.retries, "max_tokens": settings.max_tokens}
    prompts = settings.prompts.fingerprint()
    with Store.open(command.store, kept | {"prompts": {name: prompts[name] for name in ("system", STAGE)}}) as store:
        curate_llm.report_input(store.add(curate_llm.problems(asked), str(command.input)), command.input)
        producer = partial(label, settings=settings)
        totals = run(store, producer, client, concurrency=command.concurrency, progress=progress())
        curate_llm.report_end(totals, asked)
    return curate_llm.EXIT_INTERRUPTED if totals.stopped == INTERRUPTED else 0


def traces(command: Analyze, measure: Measure) -> Iterator[Trace]:
    """The traces of a store or of a file of records."""
    from itertools import islice

    from mvjax.curator.analysis.splits import of_outcome, of_record
    from mvjax.data.records import open_input
    from mvjax.data.sources import read_records

    with open_input(command.input) as file:
        is_store = file.read(len(SQLITE)) == SQLITE
    limit = command.limit or None
    if not is_store:
        yield from (of_record(record, measure) for record in islice(read_records(command.input, command.format), limit))
        return
    from mvjax.curator.store import Store

    with Store.read(command.input) as store:
        for problem, outcome in islice(store.outcomes(), limit):
            trace = of_outcome(problem, outcome, measure)
            if trace is None and outcome.record is not None:
                trace = of_record(outcome.record, measure)
            if trace is not None:
                yield trace


def run_probe(command: Probe) -> int:
    """Probe, and print."""
    from mvjax.curator.analysis import probe
    from mvjax.curator.local_model import LocalModel
    from mvjax.data.sources import read_records

    check_not_negative(limit=command.limit, shuffles=command.shuffles)
    check_plot(command.plot, command.records)
    if not command.forms or not command.points:
        raise UserError("--forms and --points need one value at least")
    records = read_records(command.records, command.format)[: command.limit or None]
    say("loading the model")
    model = LocalModel.load(command.model, command.adapter, command.tokenizer)
    deepest = model.decoder.config.layers
    layers = command.layers or probe.spread(deepest)
    if not all(0 <= layer <= deepest for layer in layers):
        raise UserError(f"--layers {' '.join(map(str, layers))}: the model has layers 0 (embedding) to {deepest}")
    found = probe.collect(model, records, layers, forms=command.forms, kinds=command.points, say=say)
    probes = [one for points in found for one in probe.probe(points, layers, command.shuffles, say)]
    left_out = [
        f"{points.form}, {points.kind}: {points.parallel.sum()} of {len(points.parallel)} points are parallel, too few "
        f"(a probe needs {probe.FEWEST} of either class)"
        for points in found
        if not points.enough
    ]
    if not probes:
        raise UserError(f"{command.records}: {left_out[0]}; give more records")
    note = None
    if command.plot is not None:
        from mvjax.curator.analysis import plots

        note = plots.by_layer(command.plot, probes)
    if command.json:
        show({"probes": [one.to_dict() for one in probes], "left_out": left_out}, note)
    else:
        show(probe.table(probes, f"{command.records}, {command.model.name}"), note)
        for line in left_out:
            print(f"left out: {line}")
    return 0


def show(result, note: str | None) -> None:
    """Print JSON values, or a table; the note goes beside the output."""
    if isinstance(result, dict):
        print(json.dumps(result, indent=2))
    else:
        from rich.console import Console

        console = Console()
        (console if console.is_terminal else Console(width=160)).print(result)
    if note is not None:
        say(note)


def check_plot(plot: Path | None, source: Path) -> None:
    """Raise UserError where the picture cannot be written there."""
    if plot is not None and plot.is_dir():
        raise UserError(f"{plot}: is a directory; --plot must name a file")
    if plot is not None and plot.resolve() == source.resolve():
        raise UserError(f"{plot}: --plot is the input; name another file")
