"""Decode over streams: equal to the training forward, whatever the schedule, and in place."""

import re
from random import Random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mvjax_kernels import backends
from naive_layout import dense_mask
from random_trees import TreeConfig, random_transcript, token_facts

from mvjax.engine.model import PagedStepModel, RowPlacement
from mvjax.language.layout import lay_out
from mvjax.models import DecoderStepModel, DynamicScaling, LoraConfig, YarnScaling, add_lora
from mvjax.models.load import generation_options

SLOTS, LANES, CHUNK, PROMPT = 256, 3, 4, 7
YARN = {"max_position": 16, "rope_scaling": YarnScaling(4.0, 16, attention=1.4)}
DYNAMIC = {"max_position": 16, "rope_scaling": DynamicScaling(2.0, length=128)}


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
    kv = jax.tree.map(lambda kv: kv + 5.0, model.init_pages(requests * width + 3))
    return model.with_table(kv, pages.reshape(requests, width).astype(np.int32))


def play(model, layouts, tokens, seed=0):
    """Prefill and decode all transcripts at once, several rows a step: per transcript, the logits of each token fed."""
    random = Random(seed)
    requests = len(layouts)
    prefill, decode = jax.jit(model.prefill, donate_argnums=1), jax.jit(model.decode, donate_argnums=1)
    kv = streams_of(model, requests)
    masks = [dense_mask(layout) for layout in layouts]
    slots = [list(range(PROMPT - 1)) for _ in layouts]  # token of each slot
    for r, layout in enumerate(layouts):
        hide = np.full((1, SLOTS), SLOTS, np.int32)
        for offset in range(0, PROMPT - 1, CHUNK):
            length = min(CHUNK, PROMPT - 1 - offset)
            chunk = np.arange(offset, offset + CHUNK) % len(tokens[r])
            kv = prefill(model.params, kv, tokens[r][chunk], layout.position[chunk], hide, hide, r, offset, length)
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


@pytest.mark.parametrize(
    ("requests", "unroll", "page_size", "changes"),
    [
        # Several properties in each; below, each by itself.
        (2, True, 32, YARN),
        (1, False, 128, {"family": "qwen3", "head_dim": 64, "backend": "tpu_interpret"} | DYNAMIC),
        (2, False, None, {"scan_layers": False, "family": "olmo2", "kv_heads": 4, "tied": False}),
        (1, True, 16, {"family": "qwen2", "tied": False}),
        *(
            pytest.param(*options, marks=pytest.mark.slow)
            for options in (
                (1, True, None, {}),
                (2, False, None, {"scan_layers": False}),
                (2, True, None, {"family": "qwen2", "tied": False}),
                (1, False, None, {"family": "qwen3", "head_dim": 16}),
                (2, True, None, {"family": "olmo2", "kv_heads": 4, "tied": False}),
                (1, True, None, YARN),
                (1, True, None, DYNAMIC),
                (2, True, 32, {}),
                (2, False, 16, {}),
                (2, False, 128, {"head_dim": 64, "backend": "tpu_interpret"}),
            )
        ),
    ],
)
def test_decode_gives_the_logits_of_the_training_forward(requests, unroll, page_size, changes, tiny, logits):
    backend = {"backend": changes["backend"]} if "backend" in changes else {}
    decoder = tiny(**{name: value for name, value in changes.items() if name != "backend"})
    model = DecoderStepModel(decoder, unroll=unroll, page_size=page_size, **backend)
    assert isinstance(model, PagedStepModel)
    layouts = transcripts(requests)
    rng = np.random.default_rng(1)
    tokens = [rng.integers(0, model.vocab_size, len(layout.segment)).astype(np.int32) for layout in layouts]
    found = play(model, layouts, tokens)
    for layout, ids, fed in zip(layouts, tokens, found):
        pad = 120 - len(ids)  # one length, so that the forward is compiled once
        rows = [np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, pad)])[None] for a in (ids, layout.position)]
        levels = [np.pad(a, [(0, 2 - len(a)), (0, pad)])[None] for a in (layout.hide_start, layout.hide_end)]
        wanted = logits(decoder, *rows, *levels)[0]
        assert set(fed) == set(range(PROMPT - 1, len(ids)))
        for token, row in fed.items():
            assert np.abs(row - wanted[token]).max() <= 2e-5 * np.abs(wanted[: len(ids)]).max(), token


@pytest.mark.parametrize(
    ("platform", "unrolled", "page"), [("cpu", True, None), ("gpu", True, 128), ("tpu", False, 128)]
)
def test_the_platform_decides_on_the_layout(platform, unrolled, page, tiny, monkeypatch):
    """Of the decoder that is loaded too, so that no weight is stacked or sliced."""
    monkeypatch.setattr(backends, "platform", lambda: platform)
    model = DecoderStepModel.described(tiny().config)
    assert isinstance(model.params["layers"], list) == unrolled == (not generation_options()["scan_layers"])
    assert model.page_size == page
    if page:
        assert isinstance(jax.eval_shape(lambda: model.init_pages(3)).k, list) == unrolled


@pytest.mark.parametrize("unroll", [True, False])
def test_pages_are_read_and_written_back(unroll, tiny):
    model = DecoderStepModel(tiny(), unroll=unroll, page_size=16)
    rng = np.random.default_rng(0)
    before = jax.tree.map(lambda kv: jnp.asarray(rng.normal(size=kv.shape), kv.dtype), model.init_pages(7))
    content = jax.jit(model.read_pages)(before, jnp.array([5, 2, 0]))
    assert all(len(leaf) == 3 for leaf in jax.tree.leaves(content))
    after = jax.jit(model.write_pages)(before, jnp.array([1, 6, 0]), content)
    again = jax.jit(model.read_pages)(after, jnp.array([1, 6, 0]))
    jax.tree.map(np.testing.assert_array_equal, again, content)
    kept = jnp.array([2, 3, 4, 5])
    jax.tree.map(np.testing.assert_array_equal, model.read_pages(after, kept), model.read_pages(before, kept))


def test_adapters_are_merged_and_the_decoder_left_alone(tiny):
    decoder = add_lora(tiny(), LoraConfig(rank=2, tag_ids=(3, 4)))
    decoder.embed_tokens.tag_rows[...] += 1.0
    decoder.layers.mlp.up_proj.lora_b[...] += 0.5
    before = np.asarray(decoder.layers.mlp.up_proj.weight[...])
    params = DecoderStepModel(decoder, unroll=True).params
    np.testing.assert_array_equal(decoder.layers.mlp.up_proj.weight[...], before)
    np.testing.assert_array_equal(params["embed"], decoder.head.matrix())
    up = before[1] + 16.0 * np.asarray(decoder.layers.mlp.up_proj.lora_b[1] @ decoder.layers.mlp.up_proj.lora_a[1])
    np.testing.assert_allclose(params["layers"][1]["mlp.gate_up.weight"][48:], up, rtol=1e-5, atol=1e-5)


def test_a_prefill_writes_no_slot_beyond_its_length(tiny):
    model = DecoderStepModel(tiny(), unroll=True)
    kv = jax.tree.map(lambda kv: kv + 7.0, model.init_kv(2, 6))
    ids, hide = np.arange(4, dtype=np.int32), np.full((1, 6), 6, np.int32)
    after = jax.jit(model.prefill)(model.params, kv, ids, ids, hide, hide, 1, 3, 2)
    for kv in jax.tree.leaves(after):
        assert (np.asarray(kv[0]) == 7).all()
        assert (np.asarray(kv[1, :, [0, 1, 2, 5]]) == 7).all()
        assert (np.asarray(kv[1, :, 3:5]) != 7).all()


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the CPU compiler's copies")
@pytest.mark.parametrize(("requests", "lanes"), [(1, 1), (1, 2), (1, 8), (3, 1), (2, 4)])
def test_the_compiled_loop_copies_no_stream(requests, lanes, tiny):
    """All streams are donated to a loop of decode steps and stay where they are."""
    model = DecoderStepModel(tiny(), unroll=True)
    rows = requests * lanes

    def loop(params, kv, tokens_W, placement):
        def step(carry):
            i, kv, tokens_W, start_R = carry
            seen_RS = jnp.arange(SLOTS) < start_R[:, None] + lanes
            visibility_RS = jnp.where(seen_RS, jnp.uint32(2**lanes - 1), jnp.uint32(0))
            logits_WV, kv = model.decode(
                params, kv, tokens_W, tokens_W + i, placement._replace(start_R=start_R), visibility_RS
            )
            return i + 1, kv, jnp.argmax(logits_WV, -1).astype(jnp.int32), start_R + lanes

        return jax.lax.while_loop(lambda carry: carry[0] < 9, step, (0, kv, tokens_W, placement.start_R))

    row = np.arange(rows, dtype=np.int32)
    start = np.zeros(requests, np.int32)
    placement = RowPlacement(row // lanes, row % lanes, row.reshape(requests, lanes), start, row >= 0)
    program = jax.jit(loop, donate_argnums=1).lower(model.params, model.init_kv(requests, SLOTS), row, placement)
    text = program.compile().as_text()
    shape = rf"f32\[({requests},2|{2 * requests}|2),{SLOTS},8\]"
    assert re.search(rf"= {shape}\S* (fusion|dynamic-update-slice)\(", text)
    assert not re.findall(rf"= {shape}\S* copy\(.*", text)
