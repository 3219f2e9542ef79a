"""`mvjax serve`: a model behind the API of OpenAI, with the branches of its answers."""

from __future__ import annotations

import logging
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import tyro

from mvjax.cli.options import parse
from mvjax.errors import UserError
from mvjax.files import DEFAULT_MODEL
from mvjax.hub.cache import Cached
from mvjax.served_model import ServedModel, ServedReplicas, ServedStreams

KEY_VARIABLE = "MVJAX_API_KEY"
EXIT_OK, EXIT_INTERRUPTED = 0, 130
LIBRARIES = ("fastapi", "uvicorn", "prometheus_client")


@dataclass(frozen=True)
class ServeArguments(ServedModel, ServedStreams, ServedReplicas, Cached):
    """Serve a model over HTTP until SIGTERM or Ctrl-C."""

    model: Path = DEFAULT_MODEL
    """Weights: a GGUF file, a Hugging Face directory, an Orbax directory, or a training run or checkpoint."""
    checkpoint: str = "latest"
    """Which checkpoint of a run: latest, best (the least loss on held-out text), or the number of a step."""
    tokenizer: Path | None = None
    """The tokenizer, where it is not beside or inside the weights: a directory, a tokenizer.json or a .model file."""
    adapter: Path | None = None
    """LoRA adapter of mvjax or PEFT; `demo` names the one that ships with mvjax."""
    served_model_name: tuple[str, ...] = ()
    """Names that clients ask for the model by; the name of the file or directory where none is given."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0: all of this machine's."""
    port: int = 8000
    """Port to listen on; 0: any that is free."""
    api_key: str = ""
    """What clients must send as `Authorization: Bearer KEY`. Better in the environment variable MVJAX_API_KEY, since
    others on this machine may see the command line."""
    open_metrics: bool = False
    """/metrics answers without the key too."""
    allow_origins: tuple[str, ...] = ()
    """Origins whose pages may call the API from a browser (CORS); "*": any."""

    max_requests: int = 8
    """Requests that run at the same time; more wait."""
    max_queue: int | None = 256
    """Requests that may wait; more are refused with 429. None: any number."""
    max_branches: int = 8
    """Branches of one answer that run at the same time; further ones wait. 1 to 32."""
    max_length: int | None = None
    """Tokens of a prompt and its answer together; None: as many as the model has positions for, 32,768 at most."""
    max_paths: int = 16
    """Paths that a block may have."""
    max_depth: int = 3
    """Nesting levels of blocks."""
    pages: int | None = None
    """Pages of keys and values for all requests; None: as many as --memory has room for."""
    logprobs: int | None = 5
    """Alternatives that requests may ask log-probabilities of, 0 to 20; None: none are computed."""

    prompt_logprobs: int | None = None
    """Tokens of the longest prompt whose own log-probabilities requests may ask for (`echo` with `logprobs`, for
    likelihood tasks); None: none are computed."""

    mode: Literal["auto", "parallel", "sequential", "autoregressive"] = "auto"
    """For requests that name none; auto: parallel for a model that was trained with the control tags, that is a run, a
    model with an adapter, or one whose tokenizer has them."""
    suffixes: bool = True
    """End the last message of a chat as the training prompts do, where the mode is parallel by default."""
    temperature: float = 1.0
    """For requests that name none."""
    max_tokens: int | None = None
    """New tokens of chats that name no limit; None: as many as there is room for."""
    deadline: float | None = None
    """Seconds after which an answer is wound up; None: no such limit."""
    drain: float = 30.0
    """Seconds that running answers get to end after SIGTERM. A second signal ends them at once."""
    reasoning_content: bool = False
    """Call the text of Think and blocks `reasoning_content`, as older clients do, in place of `reasoning`."""
    request_log: str = ""
    """File that gets a line of JSON for each request; "-": standard output. Without texts."""
    log_texts: bool = False
    """With --request-log: answers too."""
    live_texts: bool = True
    """The page shows what all requests say, to whoever has the key; --no-live-texts: only how they branch."""


def main(argv: list[str]) -> int:
    """Run the verb; returns the exit status: 0 after a signal, 130 after a second one."""
    arguments = parse(ServeArguments, argv, "serve", config=(tyro.conf.OmitArgPrefixes,))
    require_libraries()
    if arguments.prompt_logprobs is not None and arguments.logprobs is None:
        raise UserError("--prompt-logprobs needs --logprobs as well, for the number of alternatives")
    from mvjax.serving.server import bind

    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s", level=logging.WARNING)
    with bind(arguments.host, arguments.port) as listening:
        return serve(arguments, listening)


def serve(arguments: ServeArguments, listening: socket.socket) -> int:
    """Load, compile, and answer on a socket until the end."""
    from rich.console import Console

    from mvjax.engine import engine_over
    from mvjax.models.copies import copies
    from mvjax.serving.app import create_app
    from mvjax.serving.driver import Driver
    from mvjax.serving.server import Connections, Server

    status = Console(stderr=True).status  # a spinner on a terminal; silence elsewhere
    with status("loading the model"):
        tokenizer, model, trained = load(arguments)
    sizes, config = engine_config(arguments, model), serving_config(arguments, trained)
    models = copies(model, arguments.replicas)
    watching = Watching(arguments, config, getattr(model, "page_size", None))
    driver = Driver(lambda: engine_over(models, tokenizer, sizes), observers=watching.observers)
    with status("compiling (kept for the next time)"):
        warm_up = driver.start()
        scorer = prompt_scorer(arguments, driver, model)
    watching.feed.tokenizer = tokenizer
    connections = Connections()
    app = create_app(
        driver, config, scorer=scorer, metrics=watching.metrics, routers=watching.routers(), abort=connections.abort
    )
    host, port = listening.getsockname()[:2]
    where = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    ready = f"ready: {warm_up.programs} programs in {warm_up.seconds:.1f} s; {config.models[0]} at {where}/v1"
    server = Server(app, driver, connections, config.drain, closing=watching.feed.close)
    server.ready = lambda: print(ready if config.api_key else f"{ready} (no key is asked for)", flush=True)
    # At a second signal uvicorn complains of every answer that it cuts.
    logging.getLogger("uvicorn.error").addFilter(lambda record: not server.force_exit)
    server.run(sockets=[listening])
    watching.close()
    if server.force_exit:  # The step that the engine is in is not waited for.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_INTERRUPTED)
    app.state.service.close()
    driver.stop()
    return EXIT_OK


class Watching:
    """Who is told of all requests: metrics, the live feed, the log."""

    def __init__(self, arguments: ServeArguments, config: Any, page_slots: int | None):
        from mvjax.serving.live import LiveFeed
        from mvjax.serving.metrics import Metrics
        from mvjax.serving.request_log import RequestLog

        self.metrics = Metrics(config.models[0], page_slots=page_slots or 0)
        self.feed = LiveFeed(config.models[0], texts=arguments.live_texts)
        self.log = RequestLog(arguments.request_log, texts=arguments.log_texts) if arguments.request_log else None
        self.observers = [self.metrics, self.feed, *([self.log] if self.log is not None else [])]

    def routers(self) -> list[Any]:
        """Of what they show."""
        from mvjax.serving.live import live_router
        from mvjax.serving.page_files import page_router

        return [live_router(self.feed), page_router()]

    def close(self) -> None:
        """Write what is left."""
        if self.log is not None:
            self.log.close()


class NamesModel(Protocol):
    """Options that name a model, as `ServeArguments` has them."""

    @property
    def model(self) -> Path: ...
    @property
    def checkpoint(self) -> str: ...
    @property
    def tokenizer(self) -> Path | None: ...
    @property
    def adapter(self) -> Path | None: ...
    @property
    def loading(self) -> dict[str, Any]: ...


def load(arguments: NamesModel) -> tuple[Any, Any, bool]:
    """The tokenizer, the model, and whether it was trained with the control tags."""
    from mvjax.hub import local_path
    from mvjax.models.load import demo_adapter, load_for_generation
    from mvjax.tokenizers import load_tokenizer
    from mvjax.training.trained import is_run, load_run

    adapter = demo_adapter() if str(arguments.adapter) == "demo" else arguments.adapter
    options: dict[str, Any] = {"tokenizer": arguments.tokenizer, **arguments.loading}
    if is_run(arguments.model):
        run, model = load_run(arguments.model, arguments.checkpoint, adapter=adapter, **options)
        return run.tokenizer, model, True
    tokenizer, model = load_for_generation(arguments.model, adapter, **options)
    its_own = load_tokenizer(local_path(arguments.tokenizer or arguments.model, "tokenizer"))
    return tokenizer, model, adapter is not None or its_own.tag_ids is not None


def prompt_scorer(arguments: ServeArguments, driver: Any, model: Any) -> Any:
    """What scores prompts, compiled on the driver's thread; None where nobody may ask for it."""
    from mvjax.engine.prompt_scorer import PromptScorer

    longest, alternatives = arguments.prompt_logprobs, arguments.logprobs or 0
    if longest is None:
        return None
    return driver.run(lambda: PromptScorer(model, model.params, longest, alternatives)).result()


def engine_config(arguments: ServeArguments, model: Any) -> Any:
    """Sizes of the engine."""
    from mvjax.engine import EngineConfig
    from mvjax.engine.limits import MOST_SLOTS

    reach = getattr(model, "max_position", None) or MOST_SLOTS
    length = min(reach, MOST_SLOTS) if arguments.max_length is None else arguments.max_length
    return EngineConfig(
        requests=arguments.max_requests,
        max_branches=arguments.max_branches,
        max_slots=length + arguments.max_branches,
        max_paths=arguments.max_paths,
        max_depth=arguments.max_depth,
        pages=arguments.pages,
        memory=arguments.memory,
        max_queue=arguments.max_queue,
        logprobs=arguments.logprobs,
    )


def serving_config(arguments: ServeArguments, trained: bool) -> Any:
    """How requests are taken and answered.

    Args:
        trained: the model was trained with the control tags.
    """
    from mvjax.serving.settings import ServingConfig

    mode = arguments.mode
    if mode == "auto":
        mode = "parallel" if trained else "autoregressive"
    name = str(arguments.model).rstrip("/").rpartition("/")[2] or str(arguments.model)
    return ServingConfig(
        models=arguments.served_model_name or (name,),
        api_key=arguments.api_key or os.environ.get(KEY_VARIABLE, ""),
        open_metrics=arguments.open_metrics,
        origins=arguments.allow_origins,
        mode=mode,
        suffixes=arguments.suffixes and mode != "autoregressive",
        reasoning_name="reasoning_content" if arguments.reasoning_content else "reasoning",
        temperature=arguments.temperature,
        max_tokens=arguments.max_tokens,
        deadline=arguments.deadline,
        drain=arguments.drain,
    )


def require_libraries() -> None:
    """UserError where the extra is not installed."""
    from importlib.util import find_spec

    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise UserError(f"{', '.join(missing)}: not installed; pip install 'mvjax[serve]'")
