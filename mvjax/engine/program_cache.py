"""Compiled programs by typed keys, each compiled once; counts and times what is compiled.

Engines of one process share them: an engine that is built again, or a second one of the same sizes for a model of the
same shape, compiles nothing.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
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
    log_steps: int
    """Steps that its log has room for."""
    alternatives: int | None
    """See `EngineConfig.logprobs`."""


@dataclasses.dataclass(frozen=True)
class PrefillKey(ProgramKey):
    """A call that prefills prompts."""

    rows: int
    tokens: int
    """Of a row."""


class AllocateKey(ProgramKey):
    """Empty keys and values."""


class AllocateStateKey(ProgramKey):
    """An empty state."""


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
    """The content of some pages."""


class WritePagesKey(ProgramKey):
    """Its inverse."""


class CopyPageKey(ProgramKey):
    """The content of a page in another."""


class Program(NamedTuple):
    """A function to be compiled, with the arguments of the moment."""

    key: ProgramKey
    function: Callable
    arguments: tuple
    donated: tuple[int, ...] = ()
    """Arguments whose memory the results take over."""
    places: Any = None
    """Shardings of the results, or None for some or all of them: where the arguments' make them lie."""


class SharedPrograms:
    """The newest compiled programs of this process.

    Programs are pure functions of their arguments, weights and vocabulary tables included, so what decides one is the
    model's arithmetic (`StepModel.arithmetic`), its key, and the arguments' structure, shapes, types and places.
    """

    def __init__(self, most: int = 128):
        self.most = most
        self._programs: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Any | None:
        """The program, now the newest; None where there is none."""
        with self._lock:
            if key in self._programs:
                self._programs.move_to_end(key)
            return self._programs.get(key)

    def add(self, key: Hashable, compiled: Any) -> None:
        """Keep a program; the one that was not used for longest goes where there are too many."""
        with self._lock:
            self._programs[key] = compiled
            if len(self._programs) > self.most:
                self._programs.popitem(last=False)


SHARED = SharedPrograms()


class ProgramCache(dict[ProgramKey, Any]):
    """An engine's compiled programs. Arguments of other shapes than those compiled for are an error, not a silent
    recompilation."""

    def __init__(self, arithmetic: Hashable | None = None):
        """arithmetic: of the model, see `StepModel`; None: its programs are shared with no other engine."""
        super().__init__()
        self.arithmetic = arithmetic
        self.seconds = 0.0
        """Time spent on compiling."""

    def compile(self, program: Program) -> Any:
        """The compiled program; arguments are looked at for their shapes only."""
        if program.key not in self:
            start = time.perf_counter()
            shared = None if self.arithmetic is None else (self.arithmetic, program.key, signature(program))
            compiled = SHARED.get(shared)
            if compiled is None:
                jitted = jax.jit(program.function, donate_argnums=program.donated, out_shardings=program.places)
                compiled = jitted.lower(*program.arguments).compile()
                if shared is not None:
                    SHARED.add(shared, compiled)
            self[program.key] = compiled
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


def signature(program: Program) -> Hashable:
    """Structure of the arguments, and shape, type and place of each of their arrays."""
    leaves, structure = jax.tree.flatten(program.arguments)
    described = tuple((jax.typeof(leaf), getattr(leaf, "sharding", None)) for leaf in leaves)
    return structure, described, program.donated, program.places
