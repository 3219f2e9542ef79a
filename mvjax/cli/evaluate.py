"""`mvjax evaluate`: accuracy, form and degree of parallelism of a model on a benchmark file."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from mvjax.cli.options import parse
from mvjax.engine.limits import Limits
from mvjax.engine.sampling_params import SamplingParams
from mvjax.errors import UserError
from mvjax.files import DEFAULT_MODEL
from mvjax.hub.cache import Cached
from mvjax.served_model import ServedModel, ServedReplicas, ServedStreams


@dataclass(frozen=True)
class EvaluateArguments(ServedModel, ServedStreams, ServedReplicas, Cached):
    """Run a benchmark file through the engine and report the totals."""

    data: tyro.conf.Positional[Path]
    """JSONL: curated records, GSM8K lines (question, answer) or problem/answer lines."""
    model: Path = DEFAULT_MODEL
    """Weights: a GGUF file, a Hugging Face directory, an Orbax directory, or a training run or checkpoint."""
    checkpoint: str = "latest"
    """Which checkpoint of a run: latest, best (the least loss on held-out text), or the number of a step."""
    tokenizer: Path | None = None
    """The tokenizer, where it is not beside or inside the weights: a directory, a tokenizer.json or a .model file."""
    adapter: Path | None = None
    """LoRA adapter of mvjax or PEFT; `demo` names the one that ships with mvjax."""
    mode: Literal["parallel", "sequential", "autoregressive"] = "parallel"
    """How to generate; autoregressive also asks with the autoregressive prompt suffix."""
    limit: int | None = None
    """Only this many problems, the first ones; None: all."""
    limits: Limits = field(default_factory=Limits)
    sampling: SamplingParams = field(default_factory=SamplingParams)
    requests: int = 4
    """Problems answered at the same time, by each replica."""
    max_branches: int = 8
    """Branches of one answer that run at the same time."""
    check: bool = False
    """Also compare the engine's logits with the training forward pass, and its tokens with those of the sequential
    schedule, on every transcript; one request at a time."""
    output: Path | None = None
    """Directory for outcomes.jsonl and summary.json; a second run with it goes on where the first stopped, if its
    settings are the same (--limit, --requests, --max-branches, --tensor-parallel, --replicas and --check may
    differ)."""
    json: bool = False
    """Print the totals as JSON."""


def main(argv: list[str]) -> int:
    """Run the verb; returns the exit status."""

    arguments = parse(EvaluateArguments, argv, "evaluate", config=(tyro.conf.OmitArgPrefixes,))
    if not arguments.data.exists():
        raise UserError(f"{arguments.data}: there is no such file")
    from mvjax.evaluation.problems import read_problems

    problems = read_problems(arguments.data, arguments.limit)
    summary, failed = evaluate(arguments, problems)
    if arguments.output is not None:
        from mvjax.files import atomic_path

        with atomic_path(arguments.output / "summary.json") as path:
            path.write_text(json.dumps(summary, indent=2) + "\n")
    if arguments.json:
        print(json.dumps(summary))
    else:
        from rich.console import Console

        from mvjax.evaluation.report import table

        Console().print(table({arguments.data.stem: summary}))
    if failed:
        print(f"error: {len(failed)} of {len(problems)} problems have no answer; {failed[0]}", file=sys.stderr)
    return 1 if failed else 0


def evaluate(arguments: EvaluateArguments, problems) -> tuple[dict, list[str]]:
    """Load the model, run the problems, return the totals and what went wrong with problems that have no answer."""
    from rich.console import Console
    from rich.progress import track

    from mvjax.data.encode import with_suffix
    from mvjax.engine import EngineConfig, engine_over
    from mvjax.engine.limits import stream_slots
    from mvjax.evaluation.consistency import Checker, ConsistencyReport, RecordingModel
    from mvjax.evaluation.report import totals
    from mvjax.evaluation.run import run_benchmark
    from mvjax.evaluation.settings import claim, fingerprint
    from mvjax.hub import local_path
    from mvjax.models import from_checkpoint
    from mvjax.models.copies import copies
    from mvjax.models.load import demo_adapter, load_for_generation, load_with_tags, open_merged
    from mvjax.models.number_formats import QUANTISED
    from mvjax.models.quantised import dequantised
    from mvjax.training.trained import is_run, load_run

    if arguments.check and arguments.replicas is not None:
        raise UserError("--check looks at one request at a time, on one replica; leave --replicas out")
    limits, sampling = arguments.limits, arguments.sampling.validate()
    adapter = demo_adapter() if str(arguments.adapter) == "demo" else local_path(arguments.adapter, "adapter")
    arguments, trained = replace(arguments, tokenizer=local_path(arguments.tokenizer, "tokenizer")), None
    options: dict[str, Any] = {"tokenizer": arguments.tokenizer, **arguments.loading}
    if is_run(arguments.model):
        trained, decoder = load_run(arguments.model, arguments.checkpoint, adapter=adapter, **options)
        tokenizer, weights = trained.tokenizer, trained.fingerprint
    else:
        arguments = replace(arguments, model=local_path(arguments.model))
        tokenizer, decoder = load_for_generation(arguments.model, adapter, **options)
        weights = fingerprint(arguments.model) if arguments.output is not None else ""
    form = "autoregressive" if arguments.mode == "autoregressive" else "multiverse"
    prompts = [tokenizer.render_chat(with_suffix(problem.messages, form)) for problem in problems]
    requests = 1 if arguments.check else arguments.requests
    # Few row counts: compiling takes longer than what finer ones would save.
    rows = arguments.max_branches if arguments.mode == "parallel" else 1
    longest = max(map(len, prompts), default=1) + limits.max_new_tokens + rows
    config = EngineConfig(
        requests=requests,
        max_branches=rows,
        row_counts=tuple(sorted({requests, rows, 2 * rows, requests * rows})) if rows > 1 else (requests,),
        max_slots=stream_slots(longest),
        memory=arguments.memory,
    )
    models = [RecordingModel(decoder)] if arguments.check else copies(decoder, arguments.replicas)
    engine = engine_over(models, tokenizer, config)
    for prompt in prompts:
        engine.check(prompt, limits, sampling, arguments.mode)
    log = None
    if arguments.output is not None:
        claim(arguments.output, settings_of(arguments, weights, adapter))
        log = arguments.output / "outcomes.jsonl"
    check = None
    if arguments.check:
        if arguments.weight_dtype in QUANTISED:  # The training forward of the weights that the engine has.
            plain = trained.checkpoint() if trained else open_merged(arguments.model, adapter, arguments.tokenizer)[1]
            reference = from_checkpoint(dequantised(plain, arguments.weight_dtype))
        elif trained is not None:
            reference = from_checkpoint(trained.checkpoint())
        else:
            _, reference = load_with_tags(arguments.model, adapter=adapter, tokenizer=arguments.tokenizer)
        checker = Checker(engine, reference, tokenizer)
        prompt_of = dict(zip((problem.id for problem in problems), prompts))

        def check(problem, result):
            return asdict(checker.check(prompt_of[problem.id], result, limits=limits, sampling=sampling))

    outcomes = run_benchmark(
        engine,
        tokenizer,
        problems,
        prompts,
        limits=limits,
        sampling=sampling,
        mode=arguments.mode,
        together=engine.config.requests,
        log=log,
        check=check,
    )
    console = Console(file=sys.stderr)
    done = list(track(outcomes, total=len(problems), description=arguments.data.stem, console=console))
    summary = totals(done)
    if arguments.check:
        reports = [ConsistencyReport(**outcome.check) for outcome in done if outcome.check is not None]
        summary |= sum(reports, ConsistencyReport()).summary()
    return summary, [f"{outcome.id}: {outcome.error}" for outcome in done if outcome.error is not None]


def settings_of(arguments: EvaluateArguments, weights: str, adapter: Path | None) -> dict[str, object]:
    """What the outcomes depend on; weights: fingerprint of the model."""
    from mvjax.evaluation.settings import fingerprint
    from mvjax.grading import RULES

    return {
        "grading": RULES,
        "data": fingerprint(arguments.data),
        "model": weights,
        "adapter": None if adapter is None else fingerprint(Path(adapter)),
        **({} if arguments.tokenizer is None else {"tokenizer": fingerprint(arguments.tokenizer)}),
        **{name: value for name in ("weight_dtype", "kv_dtype") if (value := getattr(arguments, name)) != "auto"},
        "mode": arguments.mode,
        **asdict(arguments.limits),
        **asdict(arguments.sampling),
    }
