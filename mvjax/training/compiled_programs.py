"""The compiled programs of a run, kept beside it: a start after the first one compiles nothing, on any host.

A cache in the user's home is another directory for each process of a pod, is gone with the machine, and JAX lets only
process 0 write into it. Here the processes keep what they have compiled where the runs are, and every process begins
with a copy of all of it.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path

import jax
from jax._src import compilation_cache as private_cache
from jax._src import compiler
from jax.experimental.compilation_cache import compilation_cache

from mvjax.errors import UserError
from mvjax.storage import StoragePath, copy_tree
from mvjax.training.bucket_directory import QUICK
from mvjax.training.config import TrainConfig
from mvjax.training.distributed import is_first

KEPT = ".compiled"
"""Directory of the runs' programs, beside the runs."""

SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,  # A restart compiles the small ones, too.
    "jax_persistent_cache_enable_xla_caches": "none",  # Its path would be part of what a program is known by.
}

MOST_BYTES = 8 * 2**30
"""Bytes that are kept of a run's programs. Beyond that JAX deletes those which were not used for the longest time, as
those of earlier versions and configurations."""
PROGRAM, USED = "-cache", "-atime"
"""How JAX ends the name of a program's file, and of the file with the time (in ns) at which it was last used."""
DAY = 24 * 3600 * 10**9
"""In ns: a program that was used later than this before is not noted as used again."""

Keep = Callable[[], None]
"""Sends the programs that have been compiled since the last call to where they are kept."""


@contextlib.contextmanager
def compiled_programs(config: TrainConfig) -> Generator[Keep]:
    """While entered, JAX looks for compiled programs among those of the run's earlier starts.

    They lie in OUTPUT.DIRECTORY/.compiled/NAME, MOST_BYTES of them. Nothing changes where JAX has a cache already
    (JAX_COMPILATION_CACHE_DIR). A place that cannot be read or written costs time alone.
    """
    if jax.config.jax_compilation_cache_dir:  # pyrefly: ignore[missing-attribute]  (made at run time)
        yield lambda: None
        return
    place = StoragePath(config.output.directory) / KEPT / config.name
    # A copy of this process's own: half-written programs of a process that is killed never come to the others.
    with tempfile.TemporaryDirectory(prefix="mvjax-programs-", ignore_cleanup_errors=True) as directory:
        here, known, again = Path(directory), dict[str, int](), is_first()
        with costs_time_alone(place):
            copy_tree(place, StoragePath(directory))
            known |= uses(here)

        def keep() -> None:
            nonlocal again
            if again:
                with costs_time_alone(place):
                    known.update(send(here, place.patient(QUICK), known))
            again = True  # Process 0 comes first: what all have compiled is there then, and not sent again.

        settings = {"jax_compilation_cache_dir": directory, "jax_compilation_cache_max_size": MOST_BYTES}
        with jax_settings(SETTINGS | settings), every_process_writes(place):
            yield keep
        keep()


def uses(directory: Path) -> dict[str, int]:
    """When each program in a directory was last used, in ns; where no file says it, one is written that says 0."""
    found = {}
    for program in directory.glob(f"*{PROGRAM}"):
        name = program.name.removesuffix(PROGRAM)
        used = directory / (name + USED)
        if not used.is_file():
            used.write_bytes(bytes(8))
        found[name] = int.from_bytes(used.read_bytes(), "little")
    return found


def send(here: Path, place: StoragePath, known: dict[str, int]) -> dict[str, int]:
    """Send programs that are not in `known`, with the times of their use, to where they are kept.

    Process 0 also sends the times of programs that are used again, and deletes what JAX has deleted here.

    Args:
        known: the programs there with the times of their last use; what was deleted is taken out.
    Returns:
        Those that were sent.
    """
    now = uses(here)
    new = {name: used for name, used in now.items() if name not in known}
    again = {name: used for name, used in now.items() if is_first() and name in known and used > known[name] + DAY}
    files = [*(name + PROGRAM for name in new), *(name + USED for name in {**new, **again})]
    copy_tree(StoragePath(str(here)), place, names=sorted(files), last=lambda name: name.endswith(USED))
    for name in [name for name in known if name not in now]:
        if is_first():
            (place / (name + PROGRAM)).delete()
            (place / (name + USED)).delete()
        del known[name]
    return new | again


@contextlib.contextmanager
def costs_time_alone(place: StoragePath) -> Generator[None]:
    """One line for an error of reading or writing."""
    try:
        yield
    except (UserError, OSError) as error:
        print(f"warning: {place}: the next start compiles its programs again ({error})", flush=True)


@contextlib.contextmanager
def jax_settings(settings: Mapping[str, object]) -> Generator[None]:
    """JAX's configuration with some settings of its compilation cache, and that cache opened anew before and after."""
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


@contextlib.contextmanager
def every_process_writes(place: StoragePath) -> Generator[None]:
    """Each process writes into its cache what it compiles: programs of its own devices alone, which no other knows, and
    those of all devices where processes know them by different keys, as on CPUs.

    JAX (0.10) has no setting for that: its `_cache_write` returns at once but on process 0. A JAX without the function
    that is replaced here compiles such programs again.
    """
    name = "_compile_and_write_cache"
    original = getattr(compiler, name, None)
    if original is None or not jax.process_index():
        yield
        return

    def compile_and_write(backend, computation, devices, options, host_callbacks, module_name, key):
        start = time.monotonic()
        program = original(backend, computation, devices, options, host_callbacks, module_name, key)
        if not host_callbacks:
            seconds = int(time.monotonic() - start)
            with costs_time_alone(place):
                private_cache.put_executable_and_time(key, module_name, program, backend, seconds)
        return program

    setattr(compiler, name, compile_and_write)
    try:
        yield
    finally:
        setattr(compiler, name, original)
