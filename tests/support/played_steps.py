"""Transcripts fed to a step model in random legal orders: prefill, then several rows a step."""

from random import Random

import jax
import numpy as np
from naive_layout import dense_mask
from random_trees import TreeConfig, random_transcript, token_facts

from mvjax.engine.model import RowPlacement
from mvjax.language.layout import lay_out

SLOTS, LANES, CHUNK, PROMPT = 256, 3, 4, 7


def transcripts(count, seed=0):
    """Random nested transcripts after a prompt, laid out."""
    random = Random(seed)
    out = []
    while len(out) < count:
        names = ["word"] * PROMPT + random_transcript(
            random.randint, TreeConfig(max_depth=2, max_paths=3, max_blocks=1)
        )
        if "<Path>" in names and len(names) <= 120:
            codes_T, colon_T, separator_T = token_facts(names)
            out.append(lay_out(codes_T, colon_T, PROMPT, separator_T=separator_T))
    return out


def schedule(visible_TT, rows, random):
    """Steps of a legal order: lists of tokens, at most `rows`, each fed once all that it sees have been."""
    fed = np.arange(len(visible_TT)) < PROMPT - 1
    while not fed.all():
        ready = [t for t in np.flatnonzero(~fed) if fed[:t][visible_TT[t, :t]].all()]
        random.shuffle(ready)
        step = ready[: random.randint(1, rows)]
        yield step
        fed[step] = True


def streams_of(model, requests):
    """Empty streams; pages are handed out in a random order and full of rubbish."""
    if model.page_size is None:
        return model.init_kv(requests, SLOTS)
    width = SLOTS // model.page_size
    pages = np.random.default_rng(0).permutation(requests * width + 3)[: requests * width]
    kv = jax.tree.map(lambda kv: (kv + 5).astype(kv.dtype), model.init_pages(requests * width + 3))
    return model.with_table(kv, pages.reshape(requests, width).astype(np.int32))


def play(model, layouts, tokens, seed=0):
    """Prefill and decode all transcripts at once, several rows a step: per transcript, the logits of each token fed."""
    random = Random(seed)
    requests = len(layouts)
    prefill, decode = jax.jit(model.prefill, donate_argnums=1), jax.jit(model.decode, donate_argnums=1)
    kv = streams_of(model, requests)
    masks = [dense_mask(layout) for layout in layouts]
    slots = [list(range(PROMPT - 1)) for _ in layouts]  # token of each slot
    # Chunks of all requests in one call, each request one call behind the one before, and a blank.
    hide, rows = np.full((requests + 1, 1, SLOTS), SLOTS, np.int32), np.arange(requests + 1, dtype=np.int32)
    for call in range(-(-(PROMPT - 1) // CHUNK) + requests - 1):
        offset = (call - rows) * CHUNK
        length = np.where((offset >= 0) & (rows < requests), np.clip(PROMPT - 1 - offset, 0, CHUNK), 0).astype(np.int32)
        offset = np.where(length > 0, offset, 0).astype(np.int32)
        cells = [(r % requests, np.arange(start, start + CHUNK)) for r, start in enumerate(offset)]
        ids = np.stack([tokens[r][cell] for r, cell in cells])
        position = np.stack([layouts[r].position[cell] for r, cell in cells])
        kv = prefill(model.params, kv, ids, position, hide, hide, rows % requests, offset, length)
    found = [{} for _ in layouts]
    steps = [schedule(mask, LANES, random) for mask in masks]
    width = requests * LANES
    while True:
        now = [next(step, []) for step in steps]
        if not any(now):
            return found
        order = [(r, lane, token) for r, step in enumerate(now) for lane, token in enumerate(step)]
        random.shuffle(order)  # the rows of a step come in any order
        request, lane = np.zeros(width, np.int32), np.zeros(width, np.int32)
        row = np.full((requests, LANES), width, np.int32)
        words = np.zeros((requests, SLOTS), np.uint32)
        fed, position = np.full(width, 3, np.int32), np.zeros(width, np.int32)
        start = np.array([len(slot) for slot in slots], np.int32)
        for r, step in enumerate(now):
            slots[r] += step
        for w, (r, lane_, token) in enumerate(order):
            request[w], lane[w], row[r, lane_] = r, lane_, w
            fed[w], position[w] = tokens[r][token], layouts[r].position[token]
            words[r, : len(slots[r])] |= masks[r][token][slots[r]].astype(np.uint32) << np.uint32(lane_)
        placement = RowPlacement(request, lane, row, start, np.arange(width) < len(order))
        logits, kv = decode(model.params, kv, fed, position, placement, words)
        for w, (r, _, token) in enumerate(order):
            found[r][token] = np.asarray(logits[w])
