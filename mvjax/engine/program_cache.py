"""Compiled programs by typed keys, each compiled once; counts and times what is compiled."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax

from mvjax.engine.state import Sizes


@dataclasses.dataclass(frozen=True)
class ProgramKey:
    """What a program is compiled for. Every kind of program has a class of its own: keys of two kinds are not equal."""

    sizes: Sizes


@dataclasses.dataclass(frozen=True)
class DecodeKey(ProgramKey):
    """A stay in the generation loop."""

    width: int
    """Rows of the batch."""
    narrower: int
    """The next smaller row count that there is a program for; 0: none."""


@dataclasses.dataclass(frozen=True)
class PrefillKey(ProgramKey):
    """One chunk of a prompt."""

    tokens: int
    levels: int
    """Interval levels of the prompt's layout."""


@dataclasses.dataclass(frozen=True)
class GrowKey(ProgramKey):
    """Arrays of `sizes` copied into larger ones."""

    larger: Sizes


class AllocateKey(ProgramKey):
    """Empty arrays (contiguous streams), or the state alone (pages)."""


class AllocatePagesKey(ProgramKey):
    """Empty pages."""


class AdmitKey(ProgramKey):
    """A prefilled request starts."""


class CancelKey(ProgramKey):
    """A request is to be wound up."""


class EvictKey(ProgramKey):
    """A request is taken out of the state."""


class PreemptKey(ProgramKey):
    """The same, and its part of the state is returned."""


class ResumeKey(ProgramKey):
    """A preempted request is put back."""


class ReadPagesKey(ProgramKey):
    """The content of a request's pages."""


class WritePagesKey(ProgramKey):
    """Its inverse."""


class FetchKey(ProgramKey):
    """What the host reads of a request."""


class Program(NamedTuple):
    """A function to be compiled, with the arguments of the moment."""

    key: ProgramKey
    function: Callable
    arguments: tuple
    donated: tuple[int, ...] = ()
    """Arguments whose memory the results take over."""


class ProgramCache(dict[ProgramKey, Any]):
    """Compiled programs. Arguments of other shapes than those compiled for are an error, not a silent recompilation."""

    def __init__(self):
        super().__init__()
        self.seconds = 0.0
        """Time spent on compiling."""

    def compile(self, program: Program) -> Any:
        """The compiled program; arguments are looked at for their shapes only."""
        if program.key not in self:
            start = time.perf_counter()
            jitted = jax.jit(program.function, donate_argnums=program.donated)
            self[program.key] = jitted.lower(*program.arguments).compile()
            self.seconds += time.perf_counter() - start
        return self[program.key]

    def run(self, program: Program) -> Any:
        """Results of a program, compiled where it is new."""
        return self.compile(program)(*program.arguments)

    def compile_ahead(self, programs: Iterable[Program]) -> None:
        """Compile programs side by side; `seconds` grows by the time that all take together."""
        start, before = time.perf_counter(), self.seconds
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for future in [pool.submit(self.compile, program) for program in programs]:
                future.result()
        self.seconds = before + time.perf_counter() - start
