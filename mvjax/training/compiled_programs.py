"""The compiled programs of a run, kept beside it: a start after the first one compiles nothing, on any host.

A cache in the user's home is another directory for each process of a pod, is gone with the machine, and JAX lets only
process 0 write into it. Here the processes keep what they have compiled where the runs are, and every process begins
with a copy of all of it.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Generator

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

Keep = Callable[[], None]
"""Sends the programs that have been compiled since the last call to where they are kept."""


@contextlib.contextmanager
def compiled_programs(config: TrainConfig) -> Generator[Keep]:
    """While entered, JAX looks for compiled programs among those of the run's earlier starts.

    They lie in OUTPUT.DIRECTORY/.compiled/NAME. Nothing changes where JAX has a cache already
    (JAX_COMPILATION_CACHE_DIR). A place that cannot be read or written costs time alone.
    """
    if jax.config.jax_compilation_cache_dir:  # pyrefly: ignore[missing-attribute]  (made at run time)
        yield lambda: None
        return
    place = StoragePath(config.output.directory) / KEPT / config.name
    # A copy of this process's own: half-written programs of a process that is killed never come to the others.
    with tempfile.TemporaryDirectory(prefix="mvjax-programs-", ignore_cleanup_errors=True) as directory:
        here, known, again = StoragePath(directory), set[str](), is_first()
        with costs_time_alone(place):
            copy_tree(place, here)
            known |= {*here.walk()}

        def keep() -> None:
            nonlocal again
            if again:
                with costs_time_alone(place):
                    new = {*here.walk()} - known
                    copy_tree(here, place.patient(QUICK), names=sorted(new))
                    known.update(new)
            again = True  # Process 0 comes first: what all have compiled is there then, and not sent again.

        with jax_settings({**SETTINGS, "jax_compilation_cache_dir": directory}), every_process_writes(place):
            yield keep
        keep()


@contextlib.contextmanager
def costs_time_alone(place: StoragePath) -> Generator[None]:
    """One line for an error of reading or writing."""
    try:
        yield
    except (UserError, OSError) as error:
        print(f"warning: {place}: the next start compiles its programs again ({error})", flush=True)


@contextlib.contextmanager
def jax_settings(settings: dict[str, object]) -> Generator[None]:
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
