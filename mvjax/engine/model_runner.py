"""Runs the model's programs on the device: prefill, admit, decode, cancel."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvjax.engine import decode_loop, report, state_ops
from mvjax.engine import program_cache as pc
from mvjax.engine import state as st
from mvjax.engine.kv_cache import KVCache
from mvjax.engine.limits import EngineConfig
from mvjax.engine.model import StepModel
from mvjax.engine.prefill import CallSize, PrefillRow, call_sizes
from mvjax.engine.program_cache import Program, ProgramCache
from mvjax.engine.prompt import Prompt
from mvjax.engine.report import DecodeReport
from mvjax.engine.tables import Tables


class ModelRunner:
    """The model on the arrays of a `KVCache`. Methods wait for the device where they return what it made.

    Attributes:
        params: the model's parameters.
        call_sizes: sizes of calls that prefill, the smallest first.
        prefill_seconds: what the last call of each size took.
        step_seconds: what a step of the loop took in the last stay.
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
        self.call_sizes = call_sizes(config.prefill_chunks, cache.page_size)
        self.prefill_seconds: dict[CallSize, float] = {}
        self.step_seconds = 0.0
        self._laid_out: tuple[Prompt, Any] | None = None
        self._plain: Any = None

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
        start = time.perf_counter()
        cache.valid = False
        cache.kv, cache.state, packed = compiled(*program.arguments)
        packed = np.asarray(packed)
        cache.valid = True
        made = report.unpacked(packed, cache.sizes.requests, self.config.sync_steps, width)
        self.step_seconds = (time.perf_counter() - start) / max(made.steps, 1)
        cache.used_R = made.used_R.copy()
        return made

    def prefill(self, rows: Sequence[PrefillRow], size: CallSize) -> None:
        """Put tokens of prompts into their requests' slots, in one call of a size that holds the rows."""
        cache, prompt = self.cache, rows[0].request.prompt
        if cache.table_stale:
            cache.refresh_table()
        tokens_BT, positions_BT = np.zeros((2, size.rows, size.tokens), np.int32)
        numbers_3B = np.zeros((3, size.rows), np.int32)
        for row, (index, request, offset, length) in enumerate(rows):
            chunk = slice(offset, offset + length)
            tokens_BT[row, :length] = request.prompt.tokens[chunk]
            positions_BT[row, :length] = request.prompt.position_array()[chunk]
            numbers_3B[:, row] = index, offset, length
        program = self._prefill_program(tokens_BT, positions_BT, self._hidden(prompt), numbers_3B)
        compiled = self.programs.compile(program)
        start = time.perf_counter()
        cache.valid = False
        cache.kv = compiled(*program.arguments)
        jax.block_until_ready(cache.kv)
        cache.valid = True
        self.prefill_seconds[size] = time.perf_counter() - start

    def admit(self, request_index: int, settings: st.Settings, root: st.Root) -> None:
        """Start the root of a prefilled request."""
        self.cache.change_state(self._admit_program(request_index, settings, root))
        self.cache.used_R[request_index] = root.fed

    def cancel(self, request_index: int) -> None:
        """Let a request be wound up."""
        self.cache.change_state(self._cancel_program(request_index))

    def warm_up(self, decodes: Iterable[tuple[int, int]], settings: st.Settings, root: st.Root) -> None:
        """Compile all programs that there can be, side by side.

        Args:
            decodes: width and narrower row count of each loop.
            settings, root: of any request.
        """
        cache = self.cache
        cache.allocate()
        if cache.table_stale:
            cache.refresh_table()
        programs = [self.decode_program(width, narrower, 1) for width, narrower in decodes]
        for size in self.call_sizes:
            blank_BT, numbers_3B = np.zeros(size, np.int32), np.zeros((3, size.rows), np.int32)
            programs.append(self._prefill_program(blank_BT, blank_BT, self._hidden(Prompt([0])), numbers_3B))
        programs += [self._admit_program(0, settings, root), self._cancel_program(0)]
        self.programs.compile_ahead([*programs, *cache.programs_ahead()])

    def decode_programs(self) -> dict[pc.DecodeKey, Any]:
        """The compiled loops."""
        return {key: program for key, program in self.programs.items() if isinstance(key, pc.DecodeKey)}

    def _hidden(self, prompt: Prompt) -> Any:
        """Hidden intervals of a prompt [2, E, S] on the device, put there once for all of its pieces; those of plain
        prompts, which are all alike, once for all."""

        def put() -> Any:
            hidden = np.stack(prompt.hidden(self.config.prompt_levels, self.cache.sizes.slots))
            return jax.device_put(hidden, self.cache.replicated)

        if not prompt.laid_out:
            if self._plain is None:
                self._plain = put()
            return self._plain
        if self._laid_out is None or self._laid_out[0] is not prompt:
            self._laid_out = prompt, put()
        return self._laid_out[1]

    def decode_program(self, width: int, narrower: int, steps: int) -> Program:
        """A stay in the generation loop, `steps` steps at most, on arrays as they are now."""
        cache, config = self.cache, self.config
        key = pc.DecodeKey(cache.sizes, width, narrower, config.sync_steps, config.logprobs)
        static = {"width": width, "narrower": narrower, "log_steps": key.log_steps, "alternatives": key.alternatives}
        run = functools.partial(decode_loop.run, self.model, **static)
        arguments = self.params, self.tables, cache.kv, cache.state, cache.room_R, np.int32(steps)
        return Program(key, run, arguments, (2, 3))

    def _prefill_program(self, tokens_BT, positions_BT, hidden_2ES: Any, numbers_3B) -> Program:
        rows, tokens = tokens_BT.shape
        key = pc.PrefillKey(self.cache.sizes, rows, tokens)
        arguments = self.params, self.cache.kv, tokens_BT, positions_BT, hidden_2ES, numbers_3B
        return Program(key, functools.partial(prefill_call, self.model), arguments, (1,))

    def _cancel_program(self, request_index: int) -> Program:
        arguments = self.cache.state, np.int32(request_index)
        return Program(pc.CancelKey(self.cache.sizes), state_ops.cancel, arguments, (0,))

    def _admit_program(self, request_index: int, settings: st.Settings, root: st.Root) -> Program:
        sizes = self.cache.sizes
        admit = functools.partial(state_ops.admit, sizes=sizes)
        arguments = self.cache.state, np.int32(request_index), settings, root
        return Program(pc.AdmitKey(sizes), admit, arguments, (0,))


def prefill_call(model: StepModel, params: Any, kv: Any, tokens_BT, positions_BT, hidden_2ES, numbers_3B) -> Any:
    """`StepModel.prefill` of rows under the same hidden intervals. numbers: request, offset and length of each row."""
    hide_start_BES, hide_end_BES = jnp.broadcast_to(hidden_2ES[:, None], (2, len(tokens_BT), *hidden_2ES.shape[1:]))
    return model.prefill(params, kv, tokens_BT, positions_BT, hide_start_BES, hide_end_BES, *numbers_3B)
