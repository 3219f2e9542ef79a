"""Transcripts by script: a step model whose logits are steered, so that any model keeps n rows live for many steps.

A script says by position which tag must come next; where it says nothing, the model picks among plain text. So the
engine does all of its work (grammar, sampling, forks, reduces) on real logits, and no trained model is needed. The
steering is one comparison and one selection per logit, and counts as the engine's time in every comparison.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mvjax.bench.config import SYNC
from mvjax.engine import SamplingParams
from mvjax.engine.engine import Engine
from mvjax.engine.limits import EngineConfig, Limits, Mode
from mvjax.engine.model import PagedStepModel
from mvjax.engine.result import Result
from mvjax.errors import UserError
from mvjax.language import tags

FAR = 1e9
"""A logit beyond every real one."""
MOST = 16
"""Scripts at most."""
PROMPT = 32
"""Tokens of a script's prompt."""
GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=1.0, top_k=50, top_p=0.95)


@dataclasses.dataclass(frozen=True, eq=False)
class Script:
    """One block with `paths` paths of `steps` tokens each, then the end; with one path plain text instead."""

    number: int
    """Its number: the first token of its prompt, by which the steered model knows it."""
    paths: int
    steps: int
    prompt: tuple[int, ...]
    forced_T: np.ndarray
    """Per position the token that must be there; -1: any text."""
    slots: int
    """Slots that prompt and transcript fill."""
    limits: Limits

    @property
    def mode(self) -> Mode:
        """How the engine is asked: a script without a block needs no tags."""
        return "parallel" if self.paths > 1 else "autoregressive"


def make_script(vocabulary: Any, number: int, paths: int, steps: int, prompt: int = PROMPT) -> Script:
    """A script for a tokenizer's `VocabularyTables`.

    Args:
        number: of the script among those of one `SteeredModel`.
        steps: tokens of each path: its head, text, `</Path>` and separator.
        prompt: tokens of the prompt.
    """
    if steps < 10:
        raise UserError(f"a scripted path of {steps} tokens is too short for its head and end; give 10 or more")
    tag = dict(zip(vocabulary.codes[vocabulary.codes >= 0].tolist(), np.flatnonzero(vocabulary.codes >= 0).tolist()))
    if paths == 1:
        forced = {prompt + steps: vocabulary.eos_ids[0]}
        made = steps
    else:
        plan = [tag[tags.PARALLEL_OPEN], tag[tags.GOAL_OPEN]]
        for label in vocabulary.number_ids[:paths]:
            plan += [tag[tags.OUTLINE_OPEN], *label, vocabulary.colon_id, tag[tags.OUTLINE_CLOSE]]
        plan.append(tag[tags.GOAL_CLOSE])
        forced = dict(enumerate(plan, prompt))
        first = prompt + len(plan) + 1  # The separator after the Map is written by the interpreter.
        forced[first + steps - 2] = tag[tags.PATH_CLOSE]
        # <Conclusion> and its separator are written too.
        end = [tag[tags.CONCLUSION_CLOSE], tag[tags.PARALLEL_CLOSE], vocabulary.eos_ids[0]]
        forced |= dict(enumerate(end, first + steps + 2))
        made = len(plan) + 1 + paths * steps + 4
    forced_T = np.full(max(forced) + 2, -1, np.int32)
    for position, token in forced.items():
        forced_T[position] = token
    # Room to spare, so that no limit ends a path before its script does.
    limits = Limits(max_new_tokens=made + 16 * paths + 64)
    text = np.flatnonzero((vocabulary.codes < 0) & ~vocabulary.newline)
    filler = text[np.arange(1, prompt) * 7 % len(text)]
    return Script(number, paths, steps, (number, *filler.tolist()), forced_T, prompt + made, limits)


class SteeredModel:
    """A step model that follows scripts; `params` holds the inner model's and the scripts. A request's script is known
    by the first token of its prompt."""

    def __init__(self, model: PagedStepModel, params: Any, vocabulary: Any, scripts: Sequence[Script], slots: int):
        self.model, self.vocab_size = model, model.vocab_size
        # Of one size for all uses, so that they share their compiled programs.
        forced_NT = np.full((MOST, slots), -1, np.int32)
        for script in scripts:
            forced_NT[script.number, : len(script.forced_T)] = script.forced_T
        text_V = np.zeros(model.vocab_size, bool)
        text_V[: len(vocabulary.codes)] = vocabulary.codes < 0
        text_V[list(vocabulary.eos_ids)] = False
        self.replicated = getattr(model, "replicated", None)
        own = {"forced": forced_NT, "text": text_V}
        self.params = {"model": params, **jax.device_put(own, self.replicated)}

    def init_kv(self, requests: int, slots: int):
        """The inner model's KV arrays, and the script of each request."""
        return self.model.init_kv(requests, slots), jnp.zeros(requests, jnp.int32)

    @property
    def page_size(self):
        """The inner model's."""
        return getattr(self.model, "page_size", None)

    def init_pages(self, pages: int):
        """The inner model's pages, and the script of the one request that a scripted engine has."""
        return self.model.init_pages(pages), jnp.zeros(1, jnp.int32)

    def with_table(self, kv, table_RM):
        """The inner model's pages under a table."""
        return self.model.with_table(kv[0], table_RM), kv[1]

    def prefill(self, params, kv, tokens_BT, positions_BT, hide_start_BES, hide_end_BES, request_B, offset_B, length_B):
        """The inner model's prefill; the first chunk of a prompt names the script."""
        inner, script_R = kv
        rest = (tokens_BT, positions_BT, hide_start_BES, hide_end_BES, request_B, offset_B, length_B)
        first_B = jnp.where((offset_B == 0) & (length_B > 0), request_B, len(script_R))
        script_R = script_R.at[first_B].set(tokens_BT[:, 0], mode="drop")
        return self.model.prefill(params["model"], inner, *rest), script_R

    def decode(self, params, kv, tokens_W, positions_W, rows, visibility_RS):
        """The inner model's logits, steered."""
        inner, script_R = kv
        logits_WV, inner = self.model.decode(params["model"], inner, tokens_W, positions_W, rows, visibility_RS)
        forced_W = params["forced"][script_R[rows.request_W], positions_W + 1]
        hit_WV = forced_W[:, None] == jnp.arange(self.vocab_size, dtype=jnp.int32)
        return jnp.where(hit_WV, FAR, jnp.where(params["text"], logits_WV, -FAR)), (inner, script_R)


def scripted_engine(
    model: PagedStepModel,
    params: Any,
    tokenizer: Any,
    plans: Sequence[tuple[int, int]],
    slots: int,
    rows: int,
    row_counts: tuple[int, ...],
) -> tuple[Engine, list[Script]]:
    """An engine of one request over a KV stream of `slots` slots, and a script for each (paths, steps)."""
    vocabulary = tokenizer.tables()
    scripts = [make_script(vocabulary, number, *plan) for number, plan in enumerate(plans)]
    for script in scripts:
        if script.slots + rows > slots:
            raise UserError(
                f"{script.paths} paths of {script.steps} tokens fill {script.slots} slots and need {rows} to spare, "
                f"more than the KV stream's {slots}; give more --slots, or fewer rows or steps"
            )
    steered = SteeredModel(model, params, vocabulary, scripts, slots)
    most = max(len(script.prompt) + script.limits.max_new_tokens for script in scripts) + rows
    config = EngineConfig(
        requests=1,
        max_branches=rows,
        row_counts=row_counts,
        max_slots=max(slots, most),
        sync_steps=SYNC,
        share_pages=False,
    )
    return Engine(steered, steered.params, tokenizer, config), scripts


def fitting_steps(paths: int, steps: int, slots: int, rows: int) -> int:
    """`steps`, or as many as `slots` KV slots have room for."""
    map_and_end = 4 * paths + 8 + max(0, paths - 9)
    return min(steps, (slots - PROMPT - rows - map_and_end) // paths)


class Stay(NamedTuple):
    """One call of `Engine.step`."""

    seconds: float
    live: list[int]
    """Rows that were live in each of its steps."""


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A request that was driven to its end."""

    result: Result
    stays: list[Stay]

    @property
    def live(self) -> list[int]:
        """Live rows of each step."""
        return [rows for stay in self.stays for rows in stay.live]

    def stay_of(self, step: int) -> int:
        """Place of the stay that holds a step."""
        ends = np.cumsum([len(stay.live) for stay in self.stays])
        return int(np.searchsorted(ends, step, side="right"))

    def steady(self, rows: int) -> list[float]:
        """Seconds per step of the full stays in which `rows` rows were live throughout: without the first stay, which
        holds the prefill, and without that of the last such step, in which paths or the request end."""
        last = max(step for step, live in enumerate(self.live) if live == rows)
        barred = (0, self.stay_of(last))
        kept = [stay for place, stay in enumerate(self.stays) if place not in barred and stay.live == [rows] * SYNC]
        return [stay.seconds / SYNC for stay in kept]


def drive(
    engine: Engine,
    prompt: Sequence[int],
    limits: Limits,
    mode: Mode = "parallel",
    sampling: SamplingParams = GREEDY,
    between: Callable[[], object] = lambda: None,
) -> Run:
    """Run one request, timing each stay in the loop; `between` is called after each."""
    engine.submit(prompt, limits=limits, sampling=sampling, mode=mode)
    seconds, results = [], []
    while engine.busy:
        start = time.perf_counter()
        results += engine.step()
        seconds.append(time.perf_counter() - start)
        between()
    lives = split_stays(rows_of_steps(results[0]), engine.config)
    if len(lives) != len(seconds):
        raise RuntimeError(f"the engine stayed {len(seconds)} times in its loop, {len(lives)} were expected")
    return Run(results[0], [Stay(*stay) for stay in zip(seconds, lives)])


class RowsRanShort(RuntimeError):
    """Paths of a request had to wait for rows."""


def rows_of_steps(result: Result) -> list[int]:
    """Rows that were live in each step of a request.

    Branches that run side by side are in step: each feeds one token, and the tokens fed together have one position.
    The first step feeds the last token of the prompt. Raises `RowsRanShort` where paths ran out of step with others.
    """
    position_T = result.stream.position
    ends_T = [*np.flatnonzero(np.diff(position_T)).tolist(), len(position_T) - 1]
    rows = [1, *np.diff([-1, *ends_T]).tolist()] if len(position_T) else [1]
    if len(rows) != result.decode_steps:
        raise RowsRanShort(f"{result.decode_steps} steps, but tokens at {len(rows) - 1} positions")
    return rows


def bucket(rows: int, config: EngineConfig) -> int:
    """Row count of the program that the engine runs for that number of live rows of one request."""
    most = config.max_branches
    return min((count for count in config.row_counts if rows <= count < most), default=most)


def split_stays(live: Sequence[int], config: EngineConfig) -> list[list[int]]:
    """The stays in which an engine takes steps with these numbers of live rows: a number that need another program, or
    `sync_steps` steps, begin a new one."""
    stays: list[list[int]] = []
    for rows in live:
        if stays and bucket(stays[-1][-1], config) == bucket(rows, config) and len(stays[-1]) < config.sync_steps:
            stays[-1].append(rows)
        else:
            stays.append([rows])
    return stays
