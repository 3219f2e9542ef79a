"""Changes of a request's tree: a path ends, a block is reduced, a segment forks, a waiting path gets a row.

Pure functions of one request (`vmap`ped, inside one `lax.cond` of the step): events are rare. Nothing of the stream is
copied or recomputed; a reduce renames segment numbers (lossless merge, arXiv 2506.09991, section 5).

Sizes: L branches, H frames for suspended branches, N paths of a block.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from mvjax.engine import state as st
from mvjax.engine.interpreter import append_queued, choose, with_queue
from mvjax.engine.sampling import KEY_OF_PATHS, fold
from mvjax.engine.state import Block, Branch, Frames, RequestState, Settings, frames_of, view
from mvjax.engine.tables import Tables
from mvjax.language import tags
from mvjax.language.grammar import CONCLUSION_RESERVE, LEADS_TO, RESERVE

Scalar = Int[Array, ""]

HEAD = 3
"""Tokens of a path's head beside its label: <Path>, separator, ":"."""


def at(tree, index):
    """The entries of an array of frames or blocks at these indices."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def select(on: Bool[Array, "F"], then, otherwise):
    """`then` for the frames where `on`."""
    return jax.tree.map(lambda a, b: lax.select(lax.broadcast_in_dim(on, a.shape, [0]), a, b), then, otherwise)


def label_lengths(parent: Branch, tables: Tables) -> Int[Array, "N"]:
    """Length of the label of each path of the block that `parent` opens."""
    default_N = jnp.where(parent.label_length > 0, parent.label_length + 1, 0) + tables.number_length
    return jnp.where(parent.read_length > 0, parent.read_length, default_N)


def label_of(parent: Branch, path: Int[Array, ""], tables: Tables) -> Int[Array, "Label"]:
    """Label of path `path` (from 1) of the block that `parent` opens: the one read; else the default, which is the
    parent's label, a dot (neither at the root) and the path's number. Its length is in `label_lengths`."""
    place = jnp.arange(parent.label.shape[0])
    read = parent.read_label[path - 1][jnp.minimum(place, parent.read_label.shape[1] - 1)]
    number_at = place - jnp.where(parent.label_length > 0, parent.label_length + 1, 0)
    digits = tables.number[path - 1]
    number = digits[jnp.clip(number_at, 0, digits.shape[0] - 1)]
    default = jnp.where(place < parent.label_length, parent.label, jnp.where(number_at < 0, tables.dot, number))
    return jnp.where(parent.read_length[path - 1] > 0, read, default)


def share_of(
    share: Int[Array, "*#paths"], extra: Int[Array, "*#paths"], path: Int[Array, "*#paths"], most: Int[Array, ""]
) -> Int[Array, "*paths"]:
    """Tokens of path `path` (from 1): the lowest numbers got the remainder; no more than the limit of a path."""
    return jnp.minimum(share + (path <= extra), most)


def new_path(parent: Branch, frame: Scalar, block: Block, path: Scalar, most: Scalar, tables: Tables) -> Branch:
    """Path `path` (from 1) of the block of suspended branch `parent` in `frame`, its first token chosen."""
    number, depth = block.base + path - 1, parent.depth + 1
    label, length = label_of(parent, path, tables), label_lengths(parent, tables)[path - 1]
    place = jnp.arange(parent.queue.shape[0])
    queue = label[jnp.clip(place - 2, 0, label.shape[0] - 1)]
    queue = jnp.where(place == 0, tables.tag_id[tags.PATH_OPEN], jnp.where(place == 1, tables.separator, queue))
    queue = jnp.where(place == 2 + length, tables.colon, queue)
    blank = jax.tree.map(jnp.zeros_like, parent)
    # The parent's count of blocks has been raised for this one already.
    return append_queued(
        blank._replace(
            active=jnp.bool_(True),
            number=number,
            parent=frame,
            depth=depth,
            grammar_state=jnp.int32(LEADS_TO[tags.PATH_OPEN]),
            body_state=jnp.int32(LEADS_TO[tags.PATH_OPEN]),
            lineage=jnp.where(jnp.arange(parent.lineage.shape[0]) == depth, number, parent.lineage),
            tokens_left=share_of(block.share, block.extra, path, most),
            next_pos=parent.next_pos,
            max_pos=parent.max_pos - RESERVE - CONCLUSION_RESERVE,
            key=fold(parent.key, KEY_OF_PATHS, parent.blocks - 1, path),
            label=label,
            label_length=length,
            queue=queue,
            queue_length=HEAD + length,
        )
    )


def divide(branch: Branch, settings: Settings, tables: Tables) -> tuple[Bool[Array, ""], Scalar, Scalar, Scalar]:
    """Divide what a branch has left among the paths that it has just described: whether the block must be abandoned,
    the share, how many paths get one token more, and the tokens lent in all."""
    count = jnp.maximum(branch.outlines, 1)
    available = jnp.maximum(branch.tokens_left - RESERVE - CONCLUSION_RESERVE, 0)
    share, extra = lax.div(available, count), lax.rem(available, count)
    room = branch.max_pos - RESERVE - CONCLUSION_RESERVE - branch.next_pos
    path_N = jnp.arange(1, branch.read_length.shape[0] + 1)
    share_N = share_of(share, extra, path_N, settings.max_path_tokens)
    least_N = HEAD + label_lengths(branch, tables) + RESERVE
    used_N = path_N <= count
    fails = (settings.wind_up > 0) | jnp.any(used_N & ((share_N <= least_N) | (room <= least_N)))
    return fails, share, extra, jnp.sum(jnp.where(used_N, share_N, 0))


def end_paths(
    branches: Branch, held: Branch, blocks: Block, ends_L: Bool[Array, "L"], settings: Settings
) -> tuple[Branch, Block, Int[Array, "L"], Bool[Array, "L"]]:
    """Book paths that have ended.

    Returns the suspended parents and their blocks; per row the path that it goes on with in the same block (0: none),
    and whether it goes on with the parent, because its path was the block's last.
    """
    frame_L = branches.parent
    own_LH = ends_L[:, None] & (frame_L[:, None] == jnp.arange(len(blocks.base)))
    ended_H = jnp.sum(own_LH, axis=0, dtype=jnp.int32)
    returned_H = jnp.sum(jnp.where(own_LH, branches.tokens_left[:, None], 0), axis=0)
    last_H = jnp.max(jnp.where(own_LH, branches.next_pos[:, None] - 1, 0), axis=0)

    # A cancelled block leaves its waiting paths out: they count as ended, and their shares come back.
    path_N = jnp.arange(1, branches.read_length.shape[1] + 1)
    left_out_HN = (path_N > blocks.started[:, None]) & (path_N <= blocks.count[:, None])
    left_out_HN &= (settings.wind_up > 0) & (ended_H > 0)[:, None]
    share_HN = share_of(blocks.share[:, None], blocks.extra[:, None], path_N, settings.max_path_tokens)
    returned_H += jnp.sum(jnp.where(left_out_HN, share_HN, 0), axis=1)
    count_H = blocks.count - jnp.sum(left_out_HN, axis=1, dtype=jnp.int32)

    # Row after row: the block's waiting paths first; the last end of a complete block goes on with the parent.
    rank_LH = jnp.cumsum(own_LH, axis=0, dtype=jnp.int32) - 1
    rank_L = jnp.take_along_axis(rank_LH, jnp.maximum(frame_L, 0)[:, None], axis=1)[:, 0]
    waiting_H = count_H - blocks.started
    next_L = jnp.where(ends_L & (rank_L < waiting_H[frame_L]), blocks.started[frame_L] + rank_L + 1, 0)
    blocks = blocks._replace(
        count=count_H,
        ended=blocks.ended + ended_H,
        started=blocks.started + jnp.minimum(waiting_H, ended_H),
        largest=jnp.maximum(blocks.largest, last_H),
    )
    complete_H = blocks.ended == blocks.count
    resumes_L = ends_L & complete_H[frame_L] & (rank_L == ended_H[frame_L] - 1)
    resumed_H = complete_H & (ended_H > 0)
    return (
        held._replace(tokens_left=held.tokens_left + returned_H, active=held.active & ~resumed_H),
        blocks,
        next_L,
        resumes_L,
    )


def suspend(
    branches: Branch,
    held: Branch,
    blocks: Block,
    forks_L: Bool[Array, "L"],
    shares_L: Sequence[Int[Array, "L"]],
    numbers: Scalar,
) -> tuple[Frames, Int[Array, "H 8"], Int[Array, "L"], Int[Array, "L"]]:
    """Put forking branches into free frames and open their blocks; returns those, the frame and the first path's
    number of each row."""
    share_L, extra_L, lent_L = shares_L
    count_L = jnp.where(forks_L, branches.outlines, 0)
    base_L = numbers + jnp.cumsum(count_L) - count_L
    # The n-th fork takes the n-th free frame.
    nth_L = jnp.cumsum(forks_L, dtype=jnp.int32)
    nth_free_H = jnp.cumsum(~held.active, dtype=jnp.int32)
    taken_LH = forks_L[:, None] & ~held.active & (nth_free_H == nth_L[:, None])
    frame_L = jnp.argmax(taken_LH, axis=1).astype(jnp.int32)
    taken_H, row_H = jnp.any(taken_LH, axis=0), jnp.argmax(taken_LH, axis=0)
    zero_L = jnp.zeros_like(base_L)
    block_L = Block(
        base=base_L,
        numbers=count_L,
        count=count_L,
        started=zero_L + 1,
        ended=zero_L,
        largest=zero_L,
        share=share_L,
        extra=extra_L,
    )
    parent_L = branches._replace(
        tokens_left=branches.tokens_left - lent_L, blocks=branches.blocks + 1, after=zero_L + st.NOTHING
    )
    frames = select(taken_H, at(frames_of(parent_L), row_H), frames_of(held))
    opened = select(taken_H, at(st.side_by_side(block_L), row_H), st.side_by_side(blocks))
    return frames, opened, frame_L, base_L


def give_rows(
    held: Branch, blocks: Block, free_L: Bool[Array, "L"]
) -> tuple[Int[Array, "H 8"], Int[Array, "L"], Int[Array, "L"]]:
    """Free rows to waiting paths, blocks by their first number. Returns the frame and the path (0: none) of each."""

    def give(row, carry):
        started_H, frame_L, path_L = carry
        waiting_H = held.active & (started_H < blocks.count)
        frame = jnp.argmin(jnp.where(waiting_H, blocks.base, jnp.iinfo(jnp.int32).max)).astype(jnp.int32)
        on = free_L[row] & waiting_H[frame]
        path = jnp.where(on, started_H[frame] + 1, 0)
        return started_H.at[frame].add(on.astype(jnp.int32)), frame_L.at[row].set(frame), path_L.at[row].set(path)

    none_L = jnp.zeros(free_L.shape, jnp.int32)
    started_H, frame_L, path_L = lax.fori_loop(0, len(free_L), give, (blocks.started, none_L, none_L))
    return st.side_by_side(blocks._replace(started=started_H)), frame_L, path_L


def apply_events(
    request: RequestState,
    segment_S: Int[Array, "S"],
    event_L: Int[Array, "L"],
    tables: Tables,
) -> tuple[RequestState, Int[Array, "S"], Int[Array, "L 2"]]:
    """Carry out the events of one step of one request. The last result is number and count of the paths that each row
    forks into at the token it has just fed, the separator behind </Goal>; 0 where it does not.

    Order: ends by row (a freed row serves its own block's next path, or goes on with the parent at a reduce), then
    forks by row (the parent's row runs path 1), then free rows to waiting paths, blocks by their first number.

    Args:
        event_L: NOTHING, END or FORK of each row; its last token has been fed.
    """
    settings, blocks = request.settings, st.view_block(request.blocks)
    branches, held = view(request.branches), view(request.held)
    root_ends_L = (event_L == st.END) & (branches.depth == 0)
    ends_L = (event_L == st.END) & (branches.depth > 0)
    held, blocks, next_L, resumes_L = end_paths(branches, held, blocks, ends_L, settings)

    # Reduce: the paths' slots become the parent's.
    parent_L: Branch = view(at(frames_of(held), branches.parent))
    block_L = st.view_block(at(st.side_by_side(blocks), branches.parent))
    owned_LS = (segment_S >= block_L.base[:, None]) & (segment_S < (block_L.base + block_L.numbers)[:, None])
    owned_LS &= resumes_L[:, None]
    renamed_S = jnp.sum(jnp.where(owned_LS, parent_L.number[:, None], 0), axis=0)
    segment_S = jnp.where(jnp.any(owned_LS, axis=0), renamed_S, segment_S)

    # Fork, or give the block up.
    tried_L = event_L == st.FORK
    fails_L, *shares_L = jax.vmap(divide, (0, None, None))(branches, settings, tables)
    forks_L, fails_L = tried_L & ~fails_L, tried_L & fails_L
    held, blocks, fork_frame_L, base_L = suspend(branches, held, blocks, forks_L, shares_L, request.numbers)
    forked_L2 = jnp.where(forks_L[:, None], jnp.stack([base_L, branches.outlines], axis=1), 0)

    # Branches that go on writing on their row: a resumed parent its conclusion, an abandoned block its end.
    resumed_L = parent_L._replace(
        active=resumes_L,
        next_pos=block_L.largest + 1,
        grammar_state=jnp.full_like(event_L, LEADS_TO[tags.CONCLUSION_OPEN]),
    )
    quit_L = branches._replace(grammar_state=branches.body_state, blocks=branches.blocks + 1)
    tag_L = jnp.where(fails_L, tables.tag_id[tags.PARALLEL_CLOSE], tables.tag_id[tags.CONCLUSION_OPEN])

    def go_on(fails, quit, resumed, tag):
        return frames_of(append_queued(with_queue(choose(fails, quit, resumed), tag, tables.separator)))

    writing_L = jax.vmap(go_on)(fails_L, quit_L, resumed_L, tag_L)

    # Paths that start: on the row of a sibling that ended, on the forking parent's row, on a free row.
    gone_L = (root_ends_L | ends_L) & ~resumes_L & (next_L == 0)
    free_L = (~branches.active | gone_L) & (jnp.arange(len(event_L)) < settings.max_branches) & (settings.wind_up == 0)
    blocks, given_frame_L, given_L = give_rows(view(held), st.view_block(blocks), free_L)
    frame_L = jnp.where(next_L > 0, branches.parent, jnp.where(forks_L, fork_frame_L, given_frame_L))
    path_L = jnp.where(next_L > 0, next_L, jnp.where(forks_L, 1, given_L))

    def start(parent, frame, block, path):
        return frames_of(new_path(view(parent), frame, st.view_block(block), path, settings.max_path_tokens, tables))

    started_L = jax.vmap(start)(at(held, frame_L), frame_L, at(blocks, frame_L), jnp.maximum(path_L, 1))

    stays_L = frames_of(branches._replace(active=branches.active & ~gone_L))
    new_branches = select(path_L > 0, started_L, select(resumes_L | fails_L, writing_L, stays_L))
    request = request._replace(
        branches=new_branches,
        held=held,
        blocks=blocks,
        alive=request.alive & ~jnp.any(root_ends_L),
        reason=jnp.where(jnp.any(root_ends_L), jnp.sum(jnp.where(root_ends_L, branches.cut, 0)), request.reason),
        numbers=request.numbers + jnp.sum(jnp.where(forks_L, branches.outlines, 0)),
        abandoned=request.abandoned + jnp.sum(fails_L, dtype=jnp.int32),
    )
    return request, segment_S, forked_L2


def any_event(event_RL: Int[Array, "R L"]) -> Bool[Array, ""]:
    """Whether the slow path is needed at all. Rows come free only by events, so waiting paths need no look else."""
    return jnp.any(event_RL != st.NOTHING)
