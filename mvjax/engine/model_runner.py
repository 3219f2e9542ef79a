"""Runs the model's programs on the device: prefill, admit, decode, cancel."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from mvjax.engine import decode_loop, report, state_ops
from mvjax.engine import program_cache as pc
from mvjax.engine import state as st
from mvjax.engine.kv_cache import KVCache
from mvjax.engine.limits import EngineConfig
from mvjax.engine.model import StepModel
from mvjax.engine.program_cache import Program, ProgramCache
from mvjax.engine.prompt import Prompt, chunk_plan
from mvjax.engine.report import DecodeReport
from mvjax.engine.tables import Tables


class ModelRunner:
    """The model on the arrays of a `KVCache`. Methods wait for the device where they return what it made.

    Attributes:
        params: the model's parameters.
    """

    def __init__(
        self,
        model: StepModel,
        config: EngineConfig,
        cache: KVCache,
        programs: ProgramCache,
        tables: Tables,
        params: Any,
    ):
        self.model, self.config, self.cache, self.programs = model, config, cache, programs
        self.tables, self.params = tables, params

    def decode(self, width: int, narrower: int, steps: int) -> DecodeReport:
        """A stay in the generation loop on `width` rows.

        Args:
            narrower: the next smaller row count that there is a program for; the loop ends when that many rows suffice.
            steps: at most, and no more than `EngineConfig.sync_steps`.
        """
        cache = self.cache
        if cache.table_stale:
            cache.refresh_table()
        program = self.decode_program(width, narrower, steps)
        compiled = self.programs.get(program.key) or self.programs.compile(program)
        cache.valid = False
        cache.kv, cache.state, packed = compiled(*program.arguments)
        packed = np.asarray(packed)
        cache.valid = True
        made = report.unpacked(packed, cache.sizes.requests, self.config.sync_steps, width)
        cache.used_R = made.used_R.copy()
        return made

    def prefill(self, request_index: int, prompt: Prompt) -> None:
        """Put a prompt but for its last token into a request's slots."""
        cache = self.cache
        tokens_T, positions_T = np.asarray(prompt.tokens, np.int32), prompt.position_array()
        hidden = self._hidden(prompt)
        for offset, size, length in chunk_plan(len(tokens_T) - 1, self.config.prefill_chunks):
            if cache.table_stale:
                cache.refresh_table()
            chunk, padding = slice(offset, offset + length), (0, size - length)
            columns = np.pad(tokens_T[chunk], padding), np.pad(positions_T[chunk], padding)
            program = self._prefill_program(*columns, hidden, request_index, offset, length)
            compiled = self.programs.compile(program)
            cache.valid = False
            cache.kv = compiled(*program.arguments)
            jax.block_until_ready(cache.kv)
            cache.valid = True

    def admit(self, request_index: int, settings: st.Settings, root: st.Root) -> None:
        """Start the root of a prefilled request."""
        self.cache.change_state(self._admit_program(request_index, settings, root))
        self.cache.used_R[request_index] = root.fed

    def cancel(self, request_index: int) -> None:
        """Let a request be wound up."""
        key = pc.CancelKey(self.cache.sizes)
        self.cache.change_state(Program(key, state_ops.cancel, (self.cache.state, np.int32(request_index)), (0,)))

    def compile_ahead(
        self, decodes: Iterable[tuple[int, int]], prompt_lengths: Iterable[int], settings: st.Settings, root: st.Root
    ) -> None:
        """Compile what requests with prompts of these lengths, without a layout, will need in the sizes of the cache.

        Args:
            decodes: width and narrower row count of each loop.
            settings, root: of any request.
        """
        hidden = self._hidden(Prompt([0]))
        plans = [chunk_plan(length - 1, self.config.prefill_chunks) for length in prompt_lengths]
        columns = [np.zeros(size, np.int32) for size in {size for plan in plans for _, size, _ in plan}]
        if self.cache.table_stale:
            self.cache.refresh_table()
        programs = [self.decode_program(width, narrower, 1) for width, narrower in decodes]
        programs += [self._prefill_program(column, column, hidden, 0, 0, 1) for column in columns]
        programs += [self._admit_program(0, settings, root)]
        self.programs.compile_ahead(programs)

    def decode_programs(self) -> dict[pc.DecodeKey, Any]:
        """The compiled loops."""
        return {key: program for key, program in self.programs.items() if isinstance(key, pc.DecodeKey)}

    def decode_program(self, width: int, narrower: int, steps: int) -> Program:
        """A stay in the generation loop, `steps` steps at most, on arrays as they are now."""
        cache, config = self.cache, self.config
        key = pc.DecodeKey(cache.sizes, width, narrower, config.sync_steps, config.logprobs)
        static = {"width": width, "narrower": narrower, "log_steps": key.log_steps, "alternatives": key.alternatives}
        run = functools.partial(decode_loop.run, self.model, **static)
        arguments = self.params, self.tables, cache.kv, cache.state, cache.room_R, np.int32(steps)
        return Program(key, run, arguments, (2, 3))

    def _hidden(self, prompt: Prompt) -> tuple[Any, Any]:
        """A prompt's hidden intervals [1, E, S] on the device, for all its chunks."""
        hidden = [array_ES[None] for array_ES in prompt.hidden(self.config.prompt_levels, self.cache.sizes.slots)]
        return tuple(jax.device_put(hidden, self.cache.replicated))

    def _prefill_program(self, tokens_T, positions_T, hidden, request_index: int, offset: int, length: int) -> Program:
        key = pc.PrefillKey(self.cache.sizes, len(tokens_T), hidden[0].shape[1])
        numbers = [np.array([number], np.int32) for number in (request_index, offset, length)]
        arguments = self.params, self.cache.kv, tokens_T[None], positions_T[None], *hidden, *numbers
        return Program(key, self.model.prefill, arguments, (1,))

    def _admit_program(self, request_index: int, settings: st.Settings, root: st.Root) -> Program:
        sizes = self.cache.sizes
        admit = functools.partial(state_ops.admit, sizes=sizes)
        arguments = self.cache.state, np.int32(request_index), settings, root
        return Program(pc.AdmitKey(sizes), admit, arguments, (0,))
