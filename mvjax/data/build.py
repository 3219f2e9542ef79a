"""Building a store: the files cut into parts of some size, each encoded by itself, by several processes where it pays.

A finished part stays when the build is interrupted, and the next one goes on with the parts that are missing. The store
itself appears under its name when all is done. At no time more than a record is in memory, and the index.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Generator, Sequence, Set
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from mvjax.data.encode import FORMS, encode_record
from mvjax.data.parts import NUMBERS, Part, divide, encode_part
from mvjax.data.readers import DataFile
from mvjax.data.records import Record
from mvjax.data.store import FAULTS, INDEX, REPORT, is_whole
from mvjax.errors import UserError
from mvjax.files import atomic_path, flush
from mvjax.tokenizers.tokenizer import Tokenizer

WORKER_BYTES = 2 << 20
"""Bytes of input from which a further process is worth its start."""
MAX_WORKERS = 16
SECONDS_PER_LINE = 10
"""Between two lines of progress where there is no terminal."""
NO_SPACE = ("No space left", "Disk quota exceeded")


def build_store(
    path: Path,
    files: Sequence[DataFile],
    tokenizer: Tokenizer,
    *,
    workers: int | None = None,
    console: Console | None = None,
) -> None:
    """Make the store of these files, unless it is there already.

    Of several hosts that share the directory one builds; of several processes on a host one builds, the others wait.

    Args:
      path: where it is to be, `store_path` of these files and this tokenizer.
      files: of `sources.open_data`, in the order in which they are taught.
      tokenizer: with control tags.
      workers: how many processes encode; None: as many as cores and input warrant.
      console: where progress is shown; standard output where there is none.
    Raises:
      UserError: a file cannot be read, the tokenizer has no chat template or no end of text, or there is no room.
    """
    if is_whole(path):
        return
    # What no record can be blamed for comes before the first record.
    encode_record(tokenizer, Record("", ({"role": "user", "content": "?"},), ".", ".", "", ""))
    console = console or Console(highlight=False, soft_wrap=True)
    work = path.with_name(f".{path.name}.parts")
    with _explained(path.parent), _lock(work, console):
        if is_whole(path):  # another process has built it meanwhile
            shutil.rmtree(work, ignore_errors=True)
            return
        shutil.rmtree(path, ignore_errors=True)
        parts = divide(files)
        if not is_whole(work):
            _encode_parts(parts, tokenizer, work, workers, console)
            _merge(parts, [file.name for file in files], tokenizer.pad_id, work)
        remove_all_but(work, {"lock", REPORT, INDEX, FAULTS, *(part.name for part in parts)})
        os.rename(work, path)
        flush(path.parent)


def remove_all_but(directory: Path, names: Set[str]) -> None:
    """Remove the other files of a directory: indexes that have been merged, what a killed process left half written."""
    for path in directory.iterdir():
        if path.name not in names:
            path.unlink()


def _merge(parts: Sequence[Part], files: Sequence[str], pad_id: int, work: Path) -> None:
    """One index of all parts, and the report."""
    no_numbers, no_bytes = np.zeros(0, np.int32), np.zeros(0, np.uint8)
    columns: dict[str, list[np.ndarray]] = {name: [no_numbers.reshape(0, len(FORMS))] for name in NUMBERS}
    columns |= {"file_N": [no_numbers], "line_N": [no_numbers], "name_length_N": [no_numbers], "names": [no_bytes]}
    faults, counts, lines_before = [], [], 0
    for part in parts:
        with np.load(work / part.index_name) as arrays:
            lines_before = 0 if part.span.start == 0 else lines_before
            found = {name: arrays[name] for name in (*NUMBERS, "line_N", "name_length_N", "names")}
            found["line_N"] = found["line_N"] + lines_before
            for line, reason in json.loads(arrays["faults"].tobytes()):
                faults.append({"file": part.file, "line": line + lines_before, "reason": reason})
            lines_before += int(arrays["lines"])
        found["file_N"] = np.full(len(found["line_N"]), part.file, np.int32)
        counts.append((part.name, len(found["line_N"])))
        for name, array in found.items():
            columns[name].append(array)
    index: dict[str, Any] = {name: np.concatenate(arrays) for name, arrays in columns.items()}
    index["name_end_N"] = np.cumsum(index["name_length_N"], dtype=np.int64)
    with atomic_path(work / INDEX) as temporary:
        np.savez(temporary, **index)
    with atomic_path(work / FAULTS) as temporary:
        temporary.write_text("".join(json.dumps(fault) + "\n" for fault in faults), encoding="utf-8")
    names = [INDEX, FAULTS, *(part.name for part in parts)]
    report = {
        "files": files,
        "records": len(index["line_N"]),
        "faults": len(faults),
        "parts": counts,
        "pad_id": pad_id,
        "sizes": {name: (work / name).stat().st_size for name in names},
    }
    with atomic_path(work / REPORT) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _encode_parts(
    parts: Sequence[Part], tokenizer: Tokenizer, work: Path, workers: int | None, console: Console
) -> None:
    """Encode the parts that are not finished yet."""
    missing = [part for part in parts if not (work / part.index_name).exists()]
    if workers is None:
        n_bytes = sum(part.span.n_bytes for part in missing)
        workers = min(len(os.sched_getaffinity(0)), MAX_WORKERS, n_bytes // WORKER_BYTES)
    workers = max(1, min(workers, len(missing)))
    with _Display(console, parts, missing, workers) as display:
        if workers == 1:
            for part in missing:
                encode_part(part, tokenizer, work)
                display.done(part)
            return
        # Spawned, not forked: JAX has threads.
        context = multiprocessing.get_context("spawn")
        stop = context.Event()
        with ProcessPoolExecutor(workers, context, _start_worker, (tokenizer, stop)) as pool:
            try:
                futures = {pool.submit(_encode_part_here, part, work): part for part in missing}
                for future in as_completed(futures):
                    future.result()
                    display.done(futures[future])
            except BrokenProcessPool as error:
                raise UserError(
                    f"{work.parent}: a process that encoded records was killed, perhaps for want of memory; the same "
                    "command goes on with what is left"
                ) from error
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise


_worker: dict[str, Any] = {}
"""A worker's tokenizer and the event that stops it."""


def _start_worker(tokenizer: Tokenizer, stop: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent says when to stop
    _worker.update(tokenizer=tokenizer, stop=stop)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker has one
    wait([parent.sentinel])
    os._exit(1)


def _encode_part_here(part: Part, directory: Path) -> None:
    encode_part(part, _worker["tokenizer"], directory, _worker["stop"].is_set)


class _Display:
    """A bar on a terminal; a line now and then in a pipe or a file."""

    def __init__(self, console: Console, parts: Sequence[Part], missing: Sequence[Part], workers: int):
        self._console, self._workers = console, workers
        self._total = sum(part.span.n_bytes for part in parts)
        self._done = self._total - sum(part.span.n_bytes for part in missing)
        self._said = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> _Display:
        goes_on = f", {self._done / self._total:.0%} done before" if self._done else ""
        processes = f" with {self._workers} processes" if self._workers > 1 else ""
        self._say(f"data: encoding {self._total / 1e6:.1f} MB of records{processes}{goes_on}")
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("data", total=self._total, completed=self._done)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def done(self, part: Part) -> None:
        """A part is finished."""
        self._done += part.span.n_bytes
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)
        elif time.monotonic() - self._said >= SECONDS_PER_LINE:
            self._said = time.monotonic()
            self._say(f"data: {self._done / self._total:.0%} encoded")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False)


@contextlib.contextmanager
def _lock(work: Path, console: Console) -> Generator[None]:
    """Hold the build of a store: its directory `work` is there, and no other process of this host builds it.

    The lock's file moves with the directory when the store is finished: who waited for it finds the store.
    """
    while True:
        work.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # it was finished and moved just now
            file = (work / "lock").open("w")
            break
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print("data: waiting for another process, which encodes the same records", markup=False)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            # Not every network file system has locks; there the caller's word that one host builds must do.
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
                raise
        yield


@contextlib.contextmanager
def _explained(directory: Path) -> Generator[None]:
    """UserError for what keeps a directory from holding stores; it is made where there is none."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, RuntimeError) as error:  # ArrayRecord raises RuntimeError
        if any(text in str(error) for text in NO_SPACE):
            raise UserError(
                f"{directory}: no space left for the encoded records; make room or name another directory (what is "
                "finished is kept)"
            ) from error
        if isinstance(error, OSError):
            raise UserError(f"{directory}: cannot hold encoded records ({error.strerror or error})") from error
        raise
