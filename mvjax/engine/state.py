"""The state of running requests on the device: branches, open blocks, segments of slots. Parents are frame indices."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int, Shaped, UInt

from mvjax.engine.sampling import on_device
from mvjax.engine.sampling_params import SamplingParams
from mvjax.engine.token_edits import TokenEdits, token_edits
from mvjax.language.grammar import RESERVE
from mvjax.language.tags import LABEL_LIMIT

NOTHING, FORK, END = range(3)
"""What a branch does when its pending tokens are written and fed; also the events of a step."""
READING_NOT, READING_FIRST, READING_LABEL, READING_DONE = range(4)
STOP, TOKENS, POSITIONS, CANCELLED, NOT_FINITE = range(5)
"""Why a request ended; also, from 1 on, why a segment was cut."""
REASONS = ("stop", "tokens", "positions", "cancelled", "not finite")

NO_SEGMENT = -1
"""Segment of an empty slot."""
NO_ANCESTOR = -2
"""Filler of a lineage; no slot ever bears it."""

WRITTEN_FLAG = 1
"""Flag of a token: the interpreter wrote the token. The cut's reason stands in the bits above, at its first token."""
CUT_SHIFT = 1


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Static sizes of the state arrays."""

    requests: int
    slots: int
    max_branches: int
    """Branches of a request that run at once."""
    max_depth: int
    max_paths: int
    number_length: int
    pages: int = 0
    """Pages of all streams together; 0: streams are contiguous."""

    @property
    def held(self) -> int:
        """Suspended branches at most: the root, and on every deeper level that may open a block one per
        running branch."""
        return 1 + self.max_branches * (self.max_depth - 1)

    @property
    def label(self) -> int:
        """Tokens of the longest label: a read one, or one made from the parent's on every level below it."""
        return LABEL_LIMIT + (self.max_depth - 1) * (1 + self.number_length)

    @property
    def queue(self) -> int:
        """Tokens of the longest pending text: a path's head, or a closing."""
        return max(3 + self.label, RESERVE)


class Branch(NamedTuple):
    """A segment that is being generated. Scalars are int32; `token` is chosen and waits to be fed."""

    active: Bool[Array, "*frames"]
    number: Int[Array, "*frames"]
    parent: Int[Array, "*frames"]
    """Frame of the suspended parent among the held ones; -1 for the root."""
    depth: Int[Array, "*frames"]
    lineage: Int[Array, "*frames D+1"]
    """Numbers of the ancestors and, at `depth`, its own."""
    tokens_left: Int[Array, "*frames"]
    next_pos: Int[Array, "*frames"]
    max_pos: Int[Array, "*frames"]
    index: Int[Array, "*frames"]
    key: UInt[Array, "*frames 2"]
    grammar_state: Int[Array, "*frames"]
    """Where the next token stands, see `language.grammar.GrammarState`."""
    body_state: Int[Array, "*frames"]
    """The body that the segment is in, or returns to behind its block: BODY, THINK or PATH."""
    blocks: Int[Array, "*frames"]
    outlines: Int[Array, "*frames"]
    reading: Int[Array, "*frames"]
    letters: Int[Array, "*frames"]
    """Tokens read so far of the outline's label."""
    spoiled: Int[Array, "*frames"]
    """1: the label being read holds a line break."""
    read_label: Int[Array, "*frames N 16"]
    read_length: Int[Array, "*frames N"]
    """Length of each outline's label; 0: the default label."""
    label: Int[Array, "*frames Label"]
    label_length: Int[Array, "*frames"]
    queue: Int[Array, "*frames Q"]
    queue_at: Int[Array, "*frames"]
    queue_length: Int[Array, "*frames"]
    after: Int[Array, "*frames"]
    token: Int[Array, "*frames"]
    position: Int[Array, "*frames"]
    flags: Int[Array, "*frames"]
    cut: Int[Array, "*frames"]


class Frames(NamedTuple):
    """Branches as the state carries them: scalars side by side, so that the compiled step has few, small kernels."""

    scalar: Int[Array, "*frames Scalars"]
    key: UInt[Array, "*frames 2"]
    lineage: Int[Array, "*frames D+1"]
    read_label: Int[Array, "*frames N 16"]
    read_length: Int[Array, "*frames N"]
    label: Int[Array, "*frames Label"]
    queue: Int[Array, "*frames Q"]


SCALARS = tuple(name for name in Branch._fields if name not in Frames._fields)
"""Fields of a branch in the order of `Frames.scalar`."""


def view(frames: Frames) -> Branch:
    """The branches in frames, field by field."""
    scalars = {name: frames.scalar[..., index] for index, name in enumerate(SCALARS)}
    vectors = {name: field for name, field in zip(Frames._fields, frames) if name != "scalar"}
    return Branch(**vectors, **scalars | {"active": scalars["active"] > 0})


def running(frames: Frames) -> Bool[Array | np.ndarray, "*frames"]:
    """Which of the branches in frames run: a field of `view`, without the others."""
    return frames.scalar[..., SCALARS.index("active")] > 0


def frames_of(branch: Branch) -> Frames:
    """Inverse of `view`."""
    fields = branch._asdict()
    scalar = side_by_side([fields[name] for name in SCALARS])
    return Frames(scalar, **{name: fields[name] for name in Frames._fields if name != "scalar"})


def view_block(block_F: Int[Array, "*frames 8"]) -> Block:
    """The blocks in an array of their fields."""
    return Block(*[block_F[..., index] for index in range(len(Block._fields))])


def side_by_side(fields: Sequence[Shaped[Array, "*frames"]]) -> Int[Array, "*frames Fields"]:
    """Scalars stacked in a last axis. A chain of selects fuses into one kernel, a concatenation needs one for each."""
    shape = (*jnp.shape(fields[0]), len(fields))
    stacked = jnp.zeros(shape, jnp.int32)
    for index, field in enumerate(fields):
        field_F = lax.broadcast_in_dim(jnp.asarray(field, jnp.int32), shape, range(len(shape) - 1))
        stacked = lax.select(np.broadcast_to(np.arange(len(fields)) == index, shape), field_F, stacked)
    return stacked


class Block(NamedTuple):
    """The open block of a held branch."""

    base: Int[Array, "*frames"]
    """Number of path 1."""
    numbers: Int[Array, "*frames"]
    """Paths that have got a number."""
    count: Int[Array, "*frames"]
    """Paths that run or will: fewer than `numbers` once a cancelled request leaves some out."""
    started: Int[Array, "*frames"]
    ended: Int[Array, "*frames"]
    largest: Int[Array, "*frames"]
    """Largest position of an ended path."""
    share: Int[Array, "*frames"]
    """Tokens of a path, before the limit of a path."""
    extra: Int[Array, "*frames"]
    """Paths, from the first on, that got one token more."""


class Settings(NamedTuple):
    """What a caller set, per request."""

    max_branches: Int[Array, "*requests"]
    max_path_tokens: Int[Array, "*requests"]
    max_paths: Int[Array, "*requests"]
    max_depth: Int[Array, "*requests"]
    min_block_share: Int[Array, "*requests"]
    sampling: SamplingParams
    """Its fields are arrays [*requests]."""
    edits: TokenEdits
    end_share: Int[Array, "*requests"]
    """The root may sample end-of-text once it has no more tokens left than this; negative: nobody ever may."""
    wind_up: Int[Array, "*requests"]
    """Reason to close every branch where it stands, CANCELLED or NOT_FINITE; 0: none."""


class Root(NamedTuple):
    """What a request's first branch starts from."""

    token: Int[Array, ""]
    """Last token of the prompt."""
    position: Int[Array, ""]
    fed: Int[Array, ""]
    """Prompt tokens before it."""
    tokens_left: Int[Array, ""]
    max_pos: Int[Array, ""]
    key: UInt[Array | np.ndarray, "2"]


class Counts(NamedTuple):
    """What is counted of a request; fields of `RequestState`."""

    reason: Int[Array | np.ndarray, "*requests"]
    decode_steps: Int[Array | np.ndarray, "*requests"]
    barred: Int[Array | np.ndarray, "*requests"]
    abandoned: Int[Array | np.ndarray, "*requests"]


class RequestState(NamedTuple):
    """All of a request but its slots: the branches that run, and the held ones, which wait for their paths."""

    settings: Settings
    branches: Frames
    held: Frames
    blocks: Int[Array, "*requests H 8"]
    """Fields of each held branch's open block, see `Block`."""
    alive: Bool[Array, "*requests"]
    reason: Int[Array, "*requests"]
    numbers: Int[Array, "*requests"]
    """Next free segment number."""
    used: Int[Array, "*requests"]
    """Slots in use: prompt and fed tokens."""
    decode_steps: Int[Array, "*requests"]
    barred: Int[Array, "*requests"]
    abandoned: Int[Array, "*requests"]


class State(NamedTuple):
    """Everything the engine keeps on the device beside the model's own stream."""

    request: RequestState
    segment_RS: Int[Array, "R S"]
    """Segment number of each slot, renamed at a reduce: what visibility is computed from. The only array over slots."""


def empty_branch(sizes: Sizes) -> Branch:
    """A branch that is not there."""
    vectors = {
        "lineage": jnp.full(sizes.max_depth + 1, NO_ANCESTOR, jnp.int32),
        "read_label": jnp.full((sizes.max_paths, LABEL_LIMIT), -1, jnp.int32),
        "read_length": jnp.zeros(sizes.max_paths, jnp.int32),
        "label": jnp.full(sizes.label, -1, jnp.int32),
        "queue": jnp.full(sizes.queue, -1, jnp.int32),
        "key": jnp.zeros(2, jnp.uint32),
        "active": jnp.zeros((), bool),
        "parent": jnp.full((), -1, jnp.int32),
    }
    return Branch(**{name: vectors.get(name, jnp.zeros((), jnp.int32)) for name in Branch._fields})


def empty_request(sizes: Sizes) -> RequestState:
    """A request slot that nobody uses."""

    def repeat(tree, count):
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), tree)

    zero = jnp.zeros((), jnp.int32)
    sampling = jax.tree.map(jnp.zeros_like, on_device(SamplingParams()))
    edits = jax.tree.map(jnp.asarray, token_edits(SamplingParams()))
    settings: dict[str, Any] = {**dict.fromkeys(Settings._fields, zero), "sampling": sampling, "edits": edits}
    frame = frames_of(empty_branch(sizes))
    return RequestState(
        settings=Settings(**settings),
        branches=repeat(frame, sizes.max_branches),
        held=repeat(frame, sizes.held),
        blocks=jnp.zeros((sizes.held, len(Block._fields)), jnp.int32),
        alive=jnp.zeros((), bool),
        **dict.fromkeys(("reason", "numbers", "used", "decode_steps", "barred", "abandoned"), zero),
    )


def empty_state(sizes: Sizes) -> State:
    """A state without requests."""
    request = empty_request(sizes)
    return State(
        request=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (sizes.requests, *leaf.shape)), request),
        segment_RS=jnp.full((sizes.requests, sizes.slots), NO_SEGMENT, jnp.int32),
    )
