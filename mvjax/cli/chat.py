"""`mvjax chat`: a conversation in the terminal, branches growing side by side, in this process or with a server."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from mvjax.cli.options import parse
from mvjax.cli.serve import KEY_VARIABLE, load
from mvjax.engine.limits import Limits
from mvjax.engine.sampling_params import SamplingParams
from mvjax.errors import UserError
from mvjax.files import DEFAULT_MODEL
from mvjax.hub.cache import Cached
from mvjax.served_model import ServedModel, ServedStreams

if TYPE_CHECKING:
    from mvjax.serving.talk import Said, Talk

HELP = "Enter sends; Ctrl-C ends an answer; /new begins a new conversation; Ctrl-D ends"


@dataclass(frozen=True)
class ChatArguments(ServedModel, ServedStreams, Cached):
    """Talk with a Multiverse model, branches in parallel."""

    url: str = ""
    """A server to talk with, such as http://127.0.0.1:8000, in place of a model in this process."""
    api_key: str = ""
    """Its key. Better in the environment variable MVJAX_API_KEY."""
    model: Path = DEFAULT_MODEL
    """Weights: a GGUF file, a Hugging Face directory, an Orbax directory, or a training run or checkpoint. With --url:
    the name of a model of the server; its first where none is given."""
    checkpoint: str = "latest"
    """Which checkpoint of a run: latest, best (the least loss on held-out text), or the number of a step."""
    tokenizer: Path | None = None
    """The tokenizer, where it is not beside or inside the weights: a directory, a tokenizer.json or a .model file."""
    adapter: Path | None = None
    """LoRA adapter of mvjax or PEFT; `demo` names the one that ships with mvjax."""
    system: str | None = None
    """System prompt; the model's own where it is not given."""
    mode: Literal["auto", "parallel", "sequential", "autoregressive"] = "auto"
    """auto: parallel for a model that was trained with the control tags; with --url as the server chooses."""
    limits: Limits = field(default_factory=Limits)
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_branches: int = 8
    """Branches that run at the same time; further ones wait. With --url the server's."""
    max_length: int = 4096
    """Tokens of the conversation at most. With --url the server's."""


def main(argv: list[str]) -> int:
    """Run the verb; returns the exit status."""
    arguments = parse(ChatArguments, argv, "chat", config=(tyro.conf.OmitArgPrefixes,))
    arguments.sampling.validate()
    talk = remote(arguments) if arguments.url else local(arguments)
    converse(talk, arguments.system)
    return 0


def remote(arguments: ChatArguments) -> Talk:
    """With a server. What differs from the defaults is asked for; the rest is as the server has it."""
    from mvjax.serving.talk import RemoteTalk

    limits, sampling = changed(arguments.limits), changed(arguments.sampling)
    if "max_new_tokens" in limits:
        limits["max_tokens"] = limits.pop("max_new_tokens")
    if isinstance(biases := sampling.get("logit_bias"), dict):
        sampling["logit_bias"] = {str(token): bias for token, bias in biases.items()}
    mode = {} if arguments.mode == "auto" else {"mode": arguments.mode}
    model = "" if arguments.model == DEFAULT_MODEL else str(arguments.model)
    key = arguments.api_key or os.environ.get(KEY_VARIABLE, "")
    talk = RemoteTalk(arguments.url, key=key, model=model, fields=limits | sampling | mode)
    print(f"{talk.model} at {arguments.url}. {HELP}", file=sys.stderr)
    return talk


def changed(settings: Any) -> dict[str, Any]:
    """Fields of a dataclass that differ from its defaults."""
    usual = type(settings)()
    return {name: value for name, value in vars(settings).items() if value != getattr(usual, name)}


def local(arguments: ChatArguments) -> Talk:
    """With a model in this process."""
    from rich.console import Console

    from mvjax.engine import Engine, EngineConfig
    from mvjax.serving.talk import LocalTalk

    status = Console(stderr=True).status  # a spinner on a terminal; silence elsewhere
    with status("loading the model"):
        tokenizer, model, trained = load(arguments)
    mode = arguments.mode if arguments.mode != "auto" else "parallel" if trained else "autoregressive"
    rows = arguments.max_branches if mode == "parallel" else 1
    reach = getattr(model, "max_position", None) or arguments.max_length
    config = EngineConfig(
        requests=1,
        max_branches=rows,
        row_counts=(1, rows) if rows > 1 else (1,),
        max_slots=min(reach, arguments.max_length) + rows,
        memory=arguments.memory,
    )
    engine = Engine(model, model.params, tokenizer, config)
    with status("compiling (kept for the next time)"):
        engine.warm_up()
    print(f"{arguments.model.name}. {HELP}", file=sys.stderr)
    return LocalTalk(engine, mode=mode, limits=arguments.limits, sampling=arguments.sampling)


def converse(talk: Talk, system: str | None) -> None:
    """Messages of the user and answers to them, until the input ends."""
    from rich.console import Console

    console = Console()
    start = [{"role": "system", "content": system}] if system is not None else []
    messages = list(start)
    for text in typed(console.is_terminal and sys.stdin.isatty()):
        if text == "/new":
            messages = list(start)
            continue
        turn = [*messages, {"role": "user", "content": text}]
        try:
            said = answer(talk, turn, console)
        except UserError as error:  # The conversation goes on without this message.
            print(f"error: {error}", file=sys.stderr)
            continue
        except KeyboardInterrupt:
            print("\nthe answer was broken off", file=sys.stderr)
            continue
        messages = [*turn, {"role": "assistant", "content": said.content}]


def typed(asks: bool) -> Iterator[str]:
    """What the user types, a message a line; blank lines are left out.

    Args:
        asks: a terminal is there: show a prompt, and take Ctrl-C at it for a line that is given up.
    """
    while True:
        try:
            text = (input("\n> ") if asks else next_line()).strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            if not asks:
                raise
            print("\nCtrl-D ends", file=sys.stderr)
            continue
        except UnicodeDecodeError as error:
            raise UserError(f"standard input is not UTF-8 text (byte {error.start})") from None
        if text == "/exit":
            return
        if text:
            yield text


def next_line() -> str:
    """A line of standard input; EOFError at its end."""
    if not (line := sys.stdin.buffer.readline()):
        raise EOFError
    return line.decode("utf-8")


def answer(talk: Talk, messages: Sequence[dict[str, str]], console: Any) -> Said:
    """One answer: drawn while it grows on a terminal, printed elsewhere. Ctrl-C ends it."""
    from rich.live import Live

    from mvjax.display.branch_texts import BranchTexts

    if not console.is_terminal:
        with ending(talk):
            said = talk.answer(messages, lambda events: None)
        print(said.content, flush=True)
    else:
        texts = BranchTexts()
        view = texts.view(console.width)
        with Live(console=console, refresh_per_second=8, vertical_overflow="visible") as live, ending(talk):

            def grow(events) -> None:
                for event in events:
                    texts.add(event.address, event.event, event.text)
                live.update(view.render(texts.tokens))

            said = talk.answer(messages, grow)
            live.update(view.render(texts.tokens), refresh=True)
    print(measures(said), file=sys.stderr)
    return said


@contextlib.contextmanager
def ending(talk: Talk) -> Generator[None]:
    """While entered, the first Ctrl-C ends the answer in order; a second one breaks it off."""
    count = 0

    def pressed(number: int, frame: Any) -> None:
        nonlocal count
        count += 1
        if count > 1 or not talk.interrupt():
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, pressed)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def measures(said: Said) -> str:
    """What an answer has cost, in a line."""
    parts = [f"{said.tokens} tokens"] if said.tokens else []
    if said.critical_path:
        parts += [f"critical path {said.critical_path}", f"# parallel {said.degree:.2f}"]
    if said.reason != "stop" or not parts:
        parts.append(f"ended: {said.reason}")
    return f"({', '.join(parts)})"
