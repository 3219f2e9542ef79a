"""What the launchers share: statuses, one-line mistakes, options, settings, restarts. Standard library only."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
"""The repository: launchers are started from here."""

FINISHED, CRASHED, USER_ERROR, AGAIN, INTERRUPTED = 0, 1, 2, 75, 130
"""Exit statuses of `mvjax train` (and of the launchers): done; our fault; the user's mistake; pre-empted or a peer was
lost, start again; interrupted and saved."""

UNREAD = 141
"""Exit status of a launcher that was still printing when its reader had gone."""

FINAL = (FINISHED, USER_ERROR, INTERRUPTED)
"""Statuses after which a launch is over; after any other it starts again, while it may."""

DESCRIPTION = """CONFIG is a preset of configs/ or a file like it; what follows it goes to `mvjax train`.
launch/README.md has examples, statuses and the environment variables."""


OF_SERVERS = """All other options go to `mvjax serve`.
launch/README.md has examples, statuses and the environment variables."""


class UserError(Exception):
    """Bad input; the text is the one line that is shown. mvjax.errors without the environment."""


class Parser(argparse.ArgumentParser):
    """Options of a launcher, then CONFIG, then the options of `mvjax train`; a wrong one is one line, status 2."""

    def __init__(self, program: str, about: str, more: str = DESCRIPTION):
        super().__init__(
            prog=f"launch/{program}",
            description=f"{about}\n\n{more}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--dry-run", action="store_true", help="print what would be done, do nothing")

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized"):
            message += "; options of mvjax train come after CONFIG"
        raise UserError(f"{self.prog}: {message} ({self.prog} --help lists the options)")

    def parse(self, words: list[str]) -> argparse.Namespace:
        """The options, with `config` (a Path to a file that is there) and `options` (words for `mvjax train`)."""
        self.add_argument("config", metavar="CONFIG", nargs="?")
        self.add_argument("options", metavar="...", nargs=argparse.REMAINDER)
        options = self.parse_args(words)
        options.config = existing_config(self.prog, options.config)
        return options

    def parse_before(self, words: list[str]) -> argparse.Namespace:
        """The launcher's own options, with `options`: all other words, in their order, for `mvjax serve`."""
        options, others = self.parse_known_args(words)
        options.options = [word for word in others if word != "--"]
        return options


def existing_config(program: str, name: str | None) -> Path:
    """The path of a configuration that is there; UserError otherwise."""
    if not name:
        raise UserError(f"{program} needs a configuration, such as configs/demo.py")
    if not Path(name).is_file():
        raise UserError(f"{program}: there is no configuration {name} (paths count from the directory you are in)")
    return Path(name)


def entry(program: str, main: Callable[[list[str]], int]) -> NoReturn:
    """Run a launcher's `main` and end with its status; a UserError, or a file that cannot be written, is one line and
    status 2. A reader of the output that has gone (`| head`) changes no status."""
    try:
        status = main(sys.argv[1:])
    except SystemExit as end:  # --help
        status = end.code
    except BrokenPipeError:
        status = UNREAD
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = USER_ERROR
    except OSError as error:
        where = f" {error.filename}:" if error.filename else ""
        print(f"error:{where} {error.strerror or error}", file=sys.stderr)
        status = USER_ERROR
    except KeyboardInterrupt:
        print(f"launch/{program}: interrupted", file=sys.stderr)
        status = INTERRUPTED
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(status)


def say(text: str) -> None:
    """A line about the launch itself, on standard error; a reader that has gone does not end the launch."""
    with contextlib.suppress(BrokenPipeError):
        print(f"launch: {text}", file=sys.stderr, flush=True)


def setting(name: str, default: float) -> float:
    """The number in an environment variable (0 or more), or the default."""
    text = os.environ.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UserError(f"{name} = {text!r} must be a number, 0 or more")
    return value


def restart_limit() -> int:
    """How often a launch may start again: MVJAX_RESTARTS, 3 unless set."""
    return int(setting("MVJAX_RESTARTS", 3))


def skipped_checks() -> set[str]:
    """Checks that MVJAX_SKIP leaves out."""
    names = {name for name in os.environ.get("MVJAX_SKIP", "").split(",") if name}
    if unknown := names - {"config", "devices"}:
        raise UserError(f"MVJAX_SKIP: there is no check {min(unknown)!r}; it can leave out config, devices")
    return names


def forwarded_settings() -> dict[str, str]:
    """Settings of the launch that count on the other hosts, too."""
    names = ("MVJAX_CHECK_TIME", "MVJAX_DISK", "MVJAX_GRACE", "MVJAX_SKIP")
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def log_path(config: str | Path, stamp: str, start: int) -> Path:
    """Where the logs of one start go: $MVJAX_LOGS (runs/logs)/NAME-TIME-START."""
    return Path(os.environ.get("MVJAX_LOGS") or "runs/logs") / f"{Path(config).stem}-{stamp}-{start}"


def now() -> str:
    """A stamp for file names, its own for each launch on this machine."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"


def tool(name: str, hint: str) -> str:
    """The path of a program; UserError with a hint where there is none."""
    if path := shutil.which(name):
        return path
    raise UserError(f"there is no {name} command on the PATH; {hint}")


def show(words: Iterable[str | Path]) -> str:
    """A command as it would be typed."""
    return shlex.join(map(str, words))


def train_words(config: str | Path, options: list[str], start: int) -> list[str]:
    """The command of one start. --restart (begin again) counts for the first start only: later ones go on."""
    return ["mvjax", "train", str(config), *(word for word in options if not (start and word == "--restart"))]


def overall_status(statuses: Iterable[int]) -> int:
    """One status for several processes: 2 before 75 before 130 before any other, in the order given; 0 if all are."""
    bad = [status for status in statuses if status]
    return next((status for status in (USER_ERROR, AGAIN, INTERRUPTED) if status in bad), bad[0] if bad else FINISHED)


def restarting(once: Callable[[int], tuple[int, bool]], *, pause: float) -> int:
    """Start, and start again until a start is final or the limit is reached; returns the last status.

    `once(start)` runs one start and returns its status and whether it may be followed by another.
    """
    limit, start = restart_limit(), 0
    os.environ.setdefault("MVJAX_LAUNCH", f"{socket.gethostname()}-{now()}")
    while True:
        status, may_follow = once(start)
        if status in FINAL or not may_follow:
            return status
        if start == limit:
            break
        start += 1
        say(f"ended with status {status}; restart {start} of {limit}")
        time.sleep(pause)
    print(f"error: given up after {limit} restart(s) (MVJAX_RESTARTS), the last status was {status}", file=sys.stderr)
    return status
