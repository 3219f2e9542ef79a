"""`mvjax generate`: answer prompts, with the branches of a transcript growing side by side."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from mvjax.cli.options import parse
from mvjax.engine.limits import Limits
from mvjax.engine.sampling_params import SamplingParams
from mvjax.errors import UserError
from mvjax.files import DEFAULT_MODEL
from mvjax.hub.cache import Cached
from mvjax.served_model import ServedModel, ServedStreams

DEMO_PROMPT = (
    "There are 4 parts. Part 1: start at 5, add 3, subtract 2, add 6. "
    "Part 2: start at 9, subtract 4, add 7, subtract 1. Part 3: start at 2, add 8, add 5, subtract 6. "
    "Part 4: start at 7, add 4, subtract 3, add 9. What is each part?"
)

SVG_WIDTH = 108
"""Columns of a picture: room for four paths side by side."""


@dataclass(frozen=True)
class GenerateArguments(ServedModel, ServedStreams, Cached):
    """Answer prompts with a Multiverse model, branches in parallel."""

    prompts: tyro.conf.Positional[tuple[str, ...]] = ()
    """Questions. None: one is read from standard input (or the demo's, with --demo)."""
    model: Path = DEFAULT_MODEL
    """Weights: a GGUF file, a Hugging Face directory, an Orbax directory, or a training run or checkpoint."""
    checkpoint: str = "latest"
    """Which checkpoint of a run: latest, best (the least loss on held-out text), or the number of a step."""
    tokenizer: Path | None = None
    """The tokenizer, where it is not beside or inside the weights: a directory, a tokenizer.json or a .model file."""
    adapter: Path | None = None
    """LoRA adapter of mvjax or PEFT to merge into the weights."""
    demo: bool = False
    """Use the adapter that ships with mvjax, and compare the schedules."""
    mode: Literal["parallel", "sequential", "autoregressive"] = "parallel"
    """parallel: paths at the same time; sequential: the same tokens, path by path; autoregressive: no blocks."""
    compare: bool = False
    """Run the sequential schedule as well: wall clock of both, and whether the tokens are the same."""
    system: str | None = None
    """System prompt; the model's own where it is not given."""
    limits: Limits = field(default_factory=Limits)
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_branches: int = 8
    """Branches of one answer that run at the same time; further ones wait."""
    svg: Path | None = None
    """Write a picture (SVG) of the answer's tree, as a terminal shows it."""
    json: bool = False
    """Print one JSON object per answer."""
    logprobs: int | None = None
    """With --json: the log-probability of each token and of this number of the model's top alternatives, 0 to 20."""


def main(argv: list[str]) -> int:
    """Run the verb; returns the exit status."""

    arguments = parse(GenerateArguments, argv, "generate", config=(tyro.conf.OmitArgPrefixes,))
    from rich.console import Console

    from mvjax.data.encode import with_suffix
    from mvjax.engine import Engine, EngineConfig
    from mvjax.engine.limits import stream_slots
    from mvjax.evaluation.run import error_of
    from mvjax.models.load import demo_adapter, load_for_generation
    from mvjax.training.trained import is_run, load_run

    prompts = questions(arguments)
    if arguments.svg is not None and (len(prompts) != 1 or arguments.svg.suffix.lower() != ".svg"):
        raise UserError(f"{arguments.svg}: draws the answer to one prompt, as SVG; give one prompt and a name in .svg")
    if arguments.logprobs is not None and not arguments.json:
        raise UserError("--logprobs prints with --json only; give both")
    arguments.sampling.validate()
    status = Console(stderr=True, quiet=arguments.json).status  # a spinner on a terminal; silence elsewhere
    options = {"tokenizer": arguments.tokenizer, **arguments.loading}
    with status("loading the model"):
        if is_run(arguments.model):
            trained, model = load_run(arguments.model, arguments.checkpoint, adapter=arguments.adapter, **options)
            tokenizer = trained.tokenizer
        else:
            adapter = demo_adapter() if arguments.demo and arguments.adapter is None else arguments.adapter
            tokenizer, model = load_for_generation(arguments.model, adapter, **options)
    form = "autoregressive" if arguments.mode == "autoregressive" else "multiverse"
    encoded = [tokenizer.render_chat(with_suffix(messages_of(text, arguments.system), form)) for text in prompts]
    rows = arguments.max_branches if arguments.mode == "parallel" else 1
    # Few row counts: the first answer waits for every program that is compiled.
    counts = (1, rows) if rows > 1 else (1,)
    longest = max(map(len, encoded))
    config = EngineConfig(
        requests=1,
        max_branches=rows,
        row_counts=counts,
        max_slots=stream_slots(longest + arguments.limits.max_new_tokens + rows),
        prefill_chunks=EngineConfig.prefill_chunks[:1] if longest <= 64 else EngineConfig.prefill_chunks[1:],
        memory=arguments.memory,
        logprobs=arguments.logprobs,
    )
    engine = Engine(model, model.params, tokenizer, config)
    for ids in encoded:
        engine.check(ids, arguments.limits, arguments.sampling, arguments.mode)
    compare = (arguments.compare or arguments.demo) and arguments.mode == "parallel"
    with status("compiling (kept for the next time)"):
        engine.warm_up()
    settings = {"limits": arguments.limits, "sampling": arguments.sampling}
    exit_status = 0
    for text, ids in zip(prompts, encoded, strict=True):
        result = show(engine, tokenizer, text, ids, arguments, mode=arguments.mode, **settings)
        if error := error_of(result):
            print(f"error: no answer to {text[:60]!r}: {error}", file=sys.stderr)
            exit_status = 1
            continue
        other = None
        if compare:
            with status("the same once more, one path after the other"):
                other = engine.generate([ids], mode="sequential", **settings)[0]
        report(result, other, tokenizer, text, arguments)
        if arguments.svg is not None:
            draw(arguments.svg, result, tokenizer, text)
    return exit_status


def questions(arguments: GenerateArguments) -> tuple[str, ...]:
    """The prompts of the command line, of the demo or of standard input."""
    if arguments.prompts:
        return arguments.prompts
    if arguments.demo:
        return (DEMO_PROMPT,)
    if sys.stdin.isatty():
        raise UserError("no prompt: give one as an argument, on standard input, or use --demo")
    try:
        text = sys.stdin.buffer.read().decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 text (byte {error.start})") from None
    if not text:
        raise UserError("standard input holds no prompt")
    return (text,)


def messages_of(text: str, system: str | None) -> list[dict[str, str]]:
    """One question as a conversation."""
    head = [{"role": "system", "content": system}] if system is not None else []
    return [*head, {"role": "user", "content": text}]


def show(engine, tokenizer, text, ids, arguments, **settings):
    """Generate one answer; on a terminal draw it while it grows."""
    from rich.console import Console
    from rich.live import Live
    from rich.markup import escape

    from mvjax.display.live_tree import LiveTree, SegmentTokens

    console = Console()
    if arguments.json or not console.is_terminal:
        return engine.generate([ids], **settings)[0]
    view, so_far = LiveTree(tokenizer.decode, tag_ordinals(tokenizer).get, console.width), SegmentTokens()
    console.print(f"[bold]{escape(text)}[/bold]\n")
    with Live(view.render(so_far), console=console, refresh_per_second=8, vertical_overflow="visible") as live:

        def grow(updates) -> None:
            for update in updates:
                so_far.add(update.segment, update.parent, update.tokens)
            live.update(view.render(so_far))

        result = engine.generate([ids], on_tokens=grow, **settings)[0]
        live.update(view.render(so_far), refresh=True)
    return result


def draw(path: Path, result, tokenizer, text: str) -> None:
    """The answer's tree as SVG, below its question and above its measures."""
    from rich.console import Group
    from rich.text import Text

    from mvjax.display.live_tree import LiveTree, SegmentTokens, write_svg

    view = LiveTree(tokenizer.decode, tag_ordinals(tokenizer).get, SVG_WIDTH)
    tree = view.render(SegmentTokens.of_result(result))
    measures = f"{result.new_tokens} tokens, critical path {result.critical_path}, # parallel {result.degree:.2f}"
    picture = Group(Text(text, style="bold"), Text(), tree, Text(), Text(measures, style="green"))
    write_svg(path, picture, "mvjax generate", SVG_WIDTH)
    print(f"{path}: the tree of {result.new_tokens} tokens", file=sys.stderr)


def tag_ordinals(tokenizer) -> dict[int, int]:
    """Token id -> index of the tag in `TAGS`."""
    return {token: tag for tag, token in enumerate(tokenizer.tag_ids)}


def logprobs_of(result, tokenizer) -> list[dict | None]:
    """For JSON: of each token and its alternatives, among what the grammar leaves open (null: barred) and before the
    bar; null for tokens that the interpreter wrote."""

    def shown(token, logprob, unbarred) -> dict:
        numbers = {"logprob": logprob, "logprob_unbarred": unbarred}
        numbers = {name: round(float(value), 6) if value > float("-inf") else None for name, value in numbers.items()}
        return {"token": int(token), "text": tokenizer.decode([int(token)]), **numbers}

    shown_T: list[dict | None] = []
    for at, token in enumerate(result.tokens):
        if result.written[at]:
            shown_T.append(None)
            continue
        its = result.logprobs.take(at)
        top = [shown(*one) for one in zip(its.top_id, its.top, its.top_unbarred)]
        shown_T.append({**shown(token, its.token, its.token_unbarred), "top": top})
    return shown_T


def report(result, other, tokenizer, text, arguments) -> None:
    """The answer's measures: a table on a terminal, the plain transcript when piped, an object with --json."""
    from rich.console import Console
    from rich.table import Table

    measures = {
        "tokens": result.new_tokens,
        "critical path": result.critical_path,
        "# parallel": round(result.degree, 3),
        "finish": result.reason,
        "seconds": round(result.timings.decode, 3),
        "tokens/s": round(result.new_tokens / max(result.timings.decode, 1e-9), 1),
    }
    if other is not None:
        measures["seconds, path after path"] = round(other.timings.decode, 3)
        measures["speed-up"] = round(other.timings.decode / max(result.timings.decode, 1e-9), 2)
        measures["same tokens"] = "yes" if result.tokens.tolist() == other.tokens.tolist() else "no"
    transcript = tokenizer.decode(result.tokens.tolist())
    if arguments.json:
        record = {"prompt": text, "response": transcript, **{k.replace(" ", "_"): v for k, v in measures.items()}}
        if result.logprobs is not None:
            record["logprobs"] = logprobs_of(result, tokenizer)
        print(json.dumps(record, ensure_ascii=False))
        return
    console = Console()
    if not console.is_terminal:
        print(transcript)
        print("; ".join(f"{name}: {value}" for name, value in measures.items()), file=sys.stderr)
        return
    table = Table(show_header=False, box=None, padding=(0, 2))
    for name, value in measures.items():
        table.add_row(name, str(value))
    console.print()
    console.print(table)
