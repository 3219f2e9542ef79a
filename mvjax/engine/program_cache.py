"""Compiled programs, each compiled once for its sizes; counts and times what is compiled."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from mvjax.engine.state import Sizes


class ProgramCache:
    """A cache of ahead-of-time compiled programs by name and sizes. Calling one never compiles it a second time:
    arguments of another shape are an error, not a silent recompilation."""

    def __init__(self):
        self._compiled: dict[tuple[str, Sizes], Any] = {}
        self.seconds = 0.0
        """Time spent on compiling."""

    @property
    def compilations(self) -> int:
        """Programs compiled so far."""
        return len(self._compiled)

    def sizes(self, prefix: str) -> set[Sizes]:
        """Sizes that a program whose name starts so has been compiled for."""
        return {sizes for name, sizes in self._compiled if name.startswith(prefix)}

    def compile_ahead(self, sizes: Sizes, programs: Iterable[tuple]) -> None:
        """Compile programs side by side, each (name, function, donate, *args); `seconds` grows by the whole time."""
        start, before = time.perf_counter(), self.seconds
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            waiting = [pool.submit(self.compile, name, sizes, *rest) for name, *rest in programs]
            for future in waiting:
                future.result()
        self.seconds = before + time.perf_counter() - start

    def compile(self, name: str, sizes: Sizes, function: Callable, donate: tuple[int, ...], *args: Any) -> Any:
        """The compiled program; arguments are looked at for their shapes only."""
        key = (name, sizes)
        if key not in self._compiled:
            start = time.perf_counter()
            self._compiled[key] = jax.jit(function, donate_argnums=donate).lower(*args).compile()
            self.seconds += time.perf_counter() - start
        return self._compiled[key]

    def call(self, name: str, sizes: Sizes, function: Callable, donate: tuple[int, ...], *args: Any) -> Any:
        """Run a program, compiling it where it is new."""
        return self.compile(name, sizes, function, donate, *args)(*args)
