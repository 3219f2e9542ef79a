"""The `mvjax` command: picks the verb, sets up the process, turns errors into one line and an exit status."""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import logging
import os
import select
import sys
import warnings
from collections.abc import Generator
from pathlib import Path

from mvjax.version import __version__

VERBS = {
    "inspect": "show a transcript: tree, layout, measures, faults, a picture of its mask",
    "convert": "turn model weights from one format into another",
    "export": "make weights of a training run: a whole model, or an adapter of PEFT",
    "fetch": "bring a model of the hub into a directory or a bucket",
    "push": "put a finished run or a model into a repository of the hub",
    "curate": "make parallel training data: reasoning traces by an LLM, GSM8K, synthetic",
    "train": "fine-tune a model into a Multiverse model",
    "plan": "what a training run will need on a machine that is not here, and whether it fits",
    "generate": "answer prompts, branches in parallel, as a live tree",
    "chat": "talk with a model or a server in the terminal, branches as a live tree",
    "serve": "answer over HTTP, as OpenAI's API has it, with the branches",
    "evaluate": "accuracy, degree of parallelism and form on benchmarks",
    "grade": "whether responses have the right final answers",
    "bench": "time the engine and the trainer against their bounds",
}

EXIT_OK, EXIT_OURS, EXIT_USER, EXIT_INTERRUPTED, EXIT_PIPE = 0, 1, 2, 130, 141


def usage() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {what}" for verb, what in VERBS.items())
    return (
        f"mvjax {__version__}: Multiverse language models in JAX\n\n"
        f"usage: mvjax VERB [options]      mvjax VERB --help says more\n\n{verbs}\n\n"
        "MVJAX_TRACEBACK=1 shows the traceback of an error; JAX_COMPILATION_CACHE_DIR moves the compilation cache."
    )


def log_backend() -> None:
    """Write to standard error, once, which attention kernels "auto" has chosen."""
    logger, handler = logging.getLogger("mvjax_kernels"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)


def run() -> None:
    """Entry point of the console script."""
    if sys.argv[1:2] in (["train"], ["bench"]):
        use_huge_pages()
    status = main(sys.argv[1:])
    if status and not os.environ.get("MVJAX_TRACEBACK"):
        # The error has been printed; what its threads complain of while the process ends adds nothing.
        sys.unraisablehook = lambda _: None
    sys.exit(status)


def main(argv: list[str]) -> int:
    """Run one verb; returns the exit status.

    0 done, 1 our fault, 2 the user's mistake, 130 interrupted, 141 nobody reads the output any more (as a shell reports
    a command that ended so).
    """
    open_closed_streams()
    try:
        try:
            return run_verb(argv)
        finally:  # here rather than at the end of the process, where nothing can be caught
            sys.stdout.flush()
            sys.stderr.flush()
    except BrokenPipeError as error:
        return EXIT_PIPE if drop_unread_output() else report(error)
    except SystemExit as end:
        # Rich turns a broken pipe into this, and has sent the output elsewhere by then.
        if isinstance(end.__context__, BrokenPipeError):
            return EXIT_PIPE
        raise


def run_verb(argv: list[str]) -> int:
    """What `main` does, but for the standard streams."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return EXIT_OK
    if argv[0] in ("-V", "--version"):
        print(f"mvjax {__version__}")
        return EXIT_OK
    verb, rest = argv[0], argv[1:]
    if verb not in VERBS:
        print(f"error: there is no verb {verb!r}; mvjax --help lists them", file=sys.stderr)
        return EXIT_USER
    if verb != "train":  # which keeps programs beside the run
        use_compilation_cache()
    log_backend()
    try:
        with cautions_in_one_line():
            # What the verb sets for itself ends with it.
            return contextvars.copy_context().run(importlib.import_module(f"mvjax.cli.{verb}").main, rest)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        return report(error)


@contextlib.contextmanager
def cautions_in_one_line() -> Generator[None]:
    """Print each warning that is meant for the user once, as one line on standard error, without its place in mvjax."""
    from mvjax.errors import Caution

    with warnings.catch_warnings():
        warnings.simplefilter("default", Caution)
        show, said = warnings.showwarning, set()

        def in_one_line(message, category, *place, **options) -> None:
            if not issubclass(category, Caution):
                show(message, category, *place, **options)
            elif str(message) not in said:
                said.add(str(message))
                print(f"warning: {message}", file=sys.stderr)

        warnings.showwarning = in_one_line
        yield


def open_closed_streams() -> None:
    """Standard streams that the caller has closed (`<&-`): input is empty, output goes nowhere.

    Otherwise the first file that is opened would take the number of the closed one and be used in its place.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def drop_unread_output() -> bool:
    """Send standard output and error nowhere if their reader has gone (`| head`); returns whether one has."""
    found = False
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a stream without a file
            poll = select.poll()
            poll.register(stream.fileno(), 0)
            if poll.poll(0):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
                found = True
    return found


def use_huge_pages() -> None:
    """Start this process anew with memory in huge pages, where glibc takes that setting (before a process starts only).

    On a CPU, a training step takes gigabytes anew; in pages of 4 KiB the kernel would spend a tenth of it on them.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def use_compilation_cache() -> None:
    """Keep compiled programs in the user's cache directory, unless the environment says otherwise."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mvjax" / "jax"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


def report(error: Exception) -> int:
    """Print one line about an error; the traceback only where MVJAX_TRACEBACK asks for it."""
    from mvjax.errors import UserError
    from mvjax.language.errors import TranscriptError

    if os.environ.get("MVJAX_TRACEBACK"):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, (UserError, TranscriptError)):
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER
    if isinstance(error, OSError):
        where = f" {error.filename}:" if error.filename else ""
        print(f"error:{where} {error.strerror or error}", file=sys.stderr)
        return EXIT_USER
    text = " ".join(str(error).split())[:300]
    print(f"error: {type(error).__name__}: {text} (a fault of mvjax; MVJAX_TRACEBACK=1 shows where)", file=sys.stderr)
    return EXIT_OURS
