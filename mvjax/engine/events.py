"""Changes of a request's tree: a path ends, a block is reduced, a segment forks, a waiting path gets a row.

Pure functions of one request (`vmap`ped, inside one `lax.cond` of the step): events are rare. Nothing of the stream is
copied or recomputed; a reduce renames segment numbers (lossless merge, arXiv 2506.09991, section 5).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from mvjax.engine import state as st
from mvjax.engine import tables as t
from mvjax.engine.interpreter import append_queued, choose, with_queue
from mvjax.engine.limits import CONCLUSION_RESERVE, RESERVE
from mvjax.engine.state import Block, Branch, Request, pack, unpack
from mvjax.engine.tables import Tables
from mvjax.language import tags

HEAD = 3
"""Tokens of a path's head beside its label: <Path>, separator, ":"."""
KEY_OF_DRAWS, KEY_OF_PATHS = 0, 1


def fold(key: Int[Array, "2"], *data: Int[Array, ""] | int) -> Int[Array, "2"]:
    """Raw threefry key with numbers folded in, one after the other."""
    key = jax.random.wrap_key_data(key, impl="threefry2x32")
    for value in data:
        key = jax.random.fold_in(key, value)
    return jax.random.key_data(key)


def label_of(parent: Branch, path: Int[Array, ""], tables: Tables) -> tuple[Int[Array, "Label"], Int[Array, ""]]:
    """Label and length for path `path` (from 1) of the block that `parent` opens: the one read, else the default."""
    size = parent.label.shape[0]
    place = jnp.arange(size)
    read = jnp.full(size, -1, jnp.int32).at[: parent.read_label.shape[1]].set(parent.read_label[path - 1])
    read_length = parent.read_length[path - 1]
    # The default: the parent's label, a dot (none at the root), the path's number.
    start = jnp.where(parent.label_length > 0, parent.label_length + 1, 0)
    digits = tables.number[path - 1]
    default = jnp.where(place < parent.label_length, parent.label, tables.dot)
    number_at = place - start
    in_number = (number_at >= 0) & (number_at < tables.number_length[path - 1])
    default = jnp.where(in_number, digits[jnp.clip(number_at, 0, digits.shape[0] - 1)], default)
    default_length = start + tables.number_length[path - 1]
    given = read_length > 0
    return jnp.where(given, read, default), jnp.where(given, read_length, default_length)


def share_of(available: Int[Array, ""], count: Int[Array, ""], path: Int[Array, ""], most: Int[Array, ""]) -> Int:
    """Tokens of path `path` (from 1) of `count` that divide `available`; the lowest numbers get the remainder."""
    share = available // count + (path <= available % count)
    return jnp.minimum(share, most)


def new_path(parent: Branch, frame: Int, block: Block, path: Int[Array, ""], most: Int, tables: Tables) -> Branch:
    """Path `path` (from 1) of the block of held branch `parent`, its first token chosen."""
    number, depth = block.base + path - 1, parent.depth + 1
    label, length = label_of(parent, path, tables)
    place = jnp.arange(parent.queue.shape[0])
    queue = jnp.zeros_like(parent.queue).at[2 : 2 + label.shape[0]].set(label)
    queue = jnp.where(place == 0, tables.tag_id[tags.PATH_OPEN], jnp.where(place == 1, tables.separator, queue))
    queue = jnp.where(place == 2 + length, tables.colon, queue)
    zero = jnp.int32(0)
    blank = jax.tree.map(jnp.zeros_like, parent)
    # `blocks` counts the open block already.
    return append_queued(
        blank._replace(
            active=jnp.bool_(True),
            number=number,
            parent=frame.astype(jnp.int32),
            depth=depth,
            lineage=jnp.where(jnp.arange(parent.lineage.shape[0]) == depth, number, parent.lineage),
            left=share_of(block.available, block.numbers, path, most),
            next_pos=parent.next_pos,
            bound=parent.bound - RESERVE - CONCLUSION_RESERVE,
            key=fold(parent.key, KEY_OF_PATHS, parent.blocks - 1, path),
            stand=zero + t.BODY,
            label=label,
            label_length=length,
            queue=queue,
            queue_length=HEAD + length,
        )
    )


def settle(
    request: Request,
    segment_S: Int[Array, "S"],
    record_SC: Int[Array, "S 6"],
    event_L: Int[Array, "L"],
    tables: Tables,
) -> tuple[Request, Int[Array, "S"], Int[Array, "S 6"]]:
    """Carry out the events of one step of one request.

    Order: ends by row (a freed row serves its own block's next path, or goes on with the parent at a reduce), then
    forks by row (the parent's row runs path 1), then free rows to waiting paths, blocks by their first number.

    Args:
        event_L: NOTHING, END or FORK of each row; its last token has been fed.
    """
    settings = request.settings
    rows, held, blocks = pack(request.rows), pack(request.held), pack(request.blocks)

    def branch_at(packed, i) -> Branch:
        return unpack(packed[i], request.rows)

    def block_at(packed, i) -> Block:
        return unpack(packed[i], request.blocks)

    def put(packed, i, value, on):
        (value,) = pack(jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], value))
        return packed.at[i].set(jnp.where(on, value, packed[i]))

    def end(row, carry):
        rows, held, blocks, segment_S, alive, reason = carry
        branch = branch_at(rows, row)
        ends = event_L[row] == st.END
        finishes = ends & (branch.depth == 0)
        on = ends & (branch.depth > 0)
        frame = jnp.maximum(branch.parent, 0)
        parent, block = branch_at(held, frame), block_at(blocks, frame)

        path_N = jnp.arange(1, request.rows.read_length.shape[1] + 1)
        waiting_N = (path_N > block.started) & (path_N <= block.count)
        share_N = share_of(block.available, block.numbers, path_N, settings.max_path_tokens)
        left_out = jnp.where(settings.cancelled, jnp.sum(jnp.where(waiting_N, share_N, 0)), 0)
        parent = parent._replace(left=parent.left + branch.left + left_out)
        block = block._replace(
            ended=block.ended + 1,
            largest=jnp.maximum(block.largest, branch.next_pos - 1),
            count=jnp.where(settings.cancelled, block.started, block.count),
        )
        more = block.started < block.count
        reduces = block.ended == block.count

        path = new_path(parent, frame, block, block.started + 1, settings.max_path_tokens, tables)
        resumed = parent._replace(
            active=jnp.bool_(True), next_pos=block.largest + 1, stand=jnp.int32(t.CONCLUSION), slot=branch.slot
        )
        resumed = append_queued(with_queue(resumed, tables.tag_id[tags.CONCLUSION_OPEN], tables.separator))
        gone = branch._replace(active=jnp.bool_(False))
        after = choose(on & more, path, choose(on & reduces, resumed, gone))

        renamed = on & reduces & (segment_S >= block.base) & (segment_S < block.base + block.numbers)
        segment_S = jnp.where(renamed, parent.number, segment_S)
        rows = put(rows, row, after, ends)
        held = put(held, frame, parent._replace(active=~reduces), on)
        blocks = put(blocks, frame, block._replace(started=block.started + more), on)
        reason = jnp.where(finishes, branch.cut, reason)
        return rows, held, blocks, segment_S, alive & ~finishes, reason

    def fork(row, carry):
        rows, held, blocks, record_SC, numbers, abandoned = carry
        branch = branch_at(rows, row)
        on = event_L[row] == st.FORK
        count = jnp.maximum(branch.outlines, 1)
        available = branch.left - RESERVE - CONCLUSION_RESERVE
        path_N = jnp.arange(1, request.rows.read_length.shape[1] + 1)
        share_N = share_of(available, count, path_N, settings.max_path_tokens)
        length_N = jax.vmap(lambda path: label_of(branch, path, tables)[1])(path_N)
        room = branch.bound - RESERVE - CONCLUSION_RESERVE - branch.next_pos
        least_N = HEAD + length_N + RESERVE
        too_little_N = (path_N <= count) & ((share_N <= least_N) | (room <= least_N))
        fails = settings.cancelled | (available <= 0) | jnp.any(too_little_N)

        quits = with_queue(
            branch._replace(stand=jnp.int32(t.BODY), blocks=branch.blocks + 1),
            tables.tag_id[tags.PARALLEL_CLOSE],
            tables.separator,
        )
        frame = jnp.argmin(held[:, 0])  # The first free one: `active` is the first field of a frame.
        lent = jnp.sum(jnp.where(path_N <= count, share_N, 0))
        parent = branch._replace(
            left=branch.left - lent,
            stand=jnp.int32(t.RUNNING_BLOCK),
            blocks=branch.blocks + 1,
            after=jnp.int32(st.NOTHING),
        )
        zero = jnp.int32(0)
        block = Block(
            base=numbers, numbers=count, count=count, started=zero + 1, ended=zero, largest=zero, available=available
        )
        path = new_path(parent, frame, block, zero + 1, settings.max_path_tokens, tables)
        forks = on & ~fails
        rows = put(rows, row, choose(fails, append_queued(quits), path), on)
        held = put(held, frame, parent, forks)
        blocks = put(blocks, frame, block, forks)
        paths = jnp.stack([numbers, count])
        at = jnp.where(forks, branch.slot, record_SC.shape[0])
        record_SC = record_SC.at[at, st.RECORD_FORK :].set(paths, mode="drop")
        numbers = numbers + jnp.where(forks, count, 0)
        return rows, held, blocks, record_SC, numbers, abandoned + (on & fails)

    def start(row, carry):
        rows, held, blocks = carry
        block_H = unpack(blocks, request.blocks)
        waiting_H = (held[:, 0] > 0) & (block_H.started < block_H.count)
        frame = jnp.argmin(jnp.where(waiting_H, block_H.base, jnp.iinfo(jnp.int32).max))
        free = (rows[row, 0] == 0) & (row < settings.rows) & ~settings.cancelled
        on = free & waiting_H[frame]
        block = block_at(blocks, frame)
        path = new_path(branch_at(held, frame), frame, block, block.started + 1, settings.max_path_tokens, tables)
        rows = put(rows, row, path, on)
        return rows, held, put(blocks, frame, block._replace(started=block.started + 1), on)

    count = event_L.shape[0]
    rows, held, blocks, segment_S, alive, reason = lax.fori_loop(
        0, count, end, (rows, held, blocks, segment_S, request.alive, request.reason)
    )
    rows, held, blocks, record_SC, numbers, abandoned = lax.fori_loop(
        0, count, fork, (rows, held, blocks, record_SC, request.numbers, request.abandoned)
    )
    rows, held, blocks = lax.fori_loop(0, count, start, (rows, held, blocks))
    request = request._replace(
        rows=unpack(rows, request.rows),
        held=unpack(held, request.held),
        blocks=unpack(blocks, request.blocks),
        alive=alive,
        reason=reason,
        numbers=numbers,
        abandoned=abandoned,
    )
    return request, segment_S, record_SC


def any_event(event_RL: Int[Array, "R L"]) -> Bool[Array, ""]:
    """Whether the slow path is needed at all. Rows come free only by events, so waiting paths need no look else."""
    return jnp.any(event_RL != st.NOTHING)
