"""Decode over streams: equal to the training forward, whatever the schedule, and in place."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mvjax_kernels import backends
from played_steps import PROMPT, SLOTS, play, streams_of, transcripts

from mvjax.engine.model import PagedStepModel, RowPlacement
from mvjax.models import DecoderStepModel, DynamicScaling, LoraConfig, YarnScaling, add_lora

YARN = {"max_position": 16, "rope_scaling": YarnScaling(4.0, 16, attention=1.4)}
DYNAMIC = {"max_position": 16, "rope_scaling": DynamicScaling(2.0, length=128)}


@pytest.mark.parametrize(
    ("requests", "unroll", "page_size", "changes"),
    [
        # Several properties in each; below, each by itself.
        (2, True, 32, YARN),
        (1, False, 128, {"family": "qwen3", "head_dim": 64, "backend": "tpu_interpret"} | DYNAMIC),
        (2, False, None, {"scan_layers": False, "family": "olmo2", "kv_heads": 4, "tied": False}),
        (1, True, 16, {"family": "qwen2", "tied": False, "loops": False}),
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
                (2, True, 32, {"loops": False}),
                (2, False, 16, {}),
                (2, False, 128, {"head_dim": 64, "backend": "tpu_interpret"}),
            )
        ),
    ],
)
def test_decode_gives_the_logits_of_the_training_forward(requests, unroll, page_size, changes, tiny, logits):
    options = {name: changes[name] for name in changes.keys() & {"backend", "loops"}}
    decoder = tiny(**{name: value for name, value in changes.items() if name not in options})
    model = DecoderStepModel(decoder, unroll=unroll, page_size=page_size, **options)
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
    ("platform", "separate", "unrolled", "page"),
    [("cpu", True, False, 64), ("gpu", True, True, 128), ("tpu", False, False, 128)],
)
def test_the_platform_decides_on_the_layout(platform, separate, unrolled, page, tiny, monkeypatch):
    monkeypatch.setattr(backends, "platform", lambda: platform)
    model = DecoderStepModel.described(tiny().config)
    assert isinstance(model.params["layers"], list) == separate
    assert model.page_size == page
    assert isinstance(jax.eval_shape(lambda: model.init_pages(3)).k, list) == unrolled


@pytest.mark.parametrize(("unroll", "kv_dtype"), [(True, "auto"), (False, "int8")])
def test_pages_are_read_and_written_back(unroll, kv_dtype, tiny):
    model = DecoderStepModel(tiny(), unroll=unroll, page_size=16, kv_dtype=kv_dtype)
    rng = np.random.default_rng(0)
    before = jax.tree.map(lambda kv: jnp.asarray(9 * rng.normal(size=kv.shape), kv.dtype), model.init_pages(7))
    content = jax.jit(model.read_pages)(before, jnp.array([5, 2, 0]))
    assert all(len(leaf) == 3 for leaf in jax.tree.leaves(content))
    assert any(leaf.dtype == jnp.int8 for leaf in jax.tree.leaves(content)) == (kv_dtype == "int8")
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
    ids, hide = np.arange(8, dtype=np.int32).reshape(2, 4), np.zeros((2, 0, 6), np.int32)
    numbers = [np.array(pair, np.int32) for pair in ((1, 0), (3, 1), (2, 0))]
    after = jax.jit(model.prefill)(model.params, kv, ids, ids, hide, hide, *numbers)
    for kv in jax.tree.leaves(after):
        assert (np.asarray(kv[0]) == 7).all()
        assert (np.asarray(kv[1, :, [0, 1, 2, 5]]) == 7).all()
        assert (np.asarray(kv[1, :, 3:5]) != 7).all()


def test_a_paged_prefill_writes_to_no_page_of_another(tiny):
    """Padding lands behind its chunk, or on the page that nobody owns; a blank writes nowhere."""
    model = DecoderStepModel(tiny(), unroll=True, page_size=4)
    kv = jax.tree.map(lambda kv: kv + 7.0, model.init_pages(6))
    table = np.array([[3, 1, 0, 0], [5, 0, 0, 0]], np.int32)
    ids, hide = np.arange(24, dtype=np.int32).reshape(3, 8), np.zeros((3, 0, 16), np.int32)
    numbers = [np.array(three, np.int32) for three in ((0, 1, 0), (1, 0, 0), (5, 2, 0))]
    after = jax.jit(model.prefill)(model.params, model.with_table(kv, table), ids, ids, hide, hide, *numbers)
    for kv in jax.tree.leaves((after.k, after.v)):
        pages = np.asarray(kv)
        assert (pages[[2, 4]] == 7).all()
        assert (pages[3, :, 0] == 7).all()
        for written in (pages[3, :, 1:], pages[1, :, :2], pages[5, :, :2]):
            assert (written != 7).all()


@pytest.mark.parametrize(
    ("unroll", "page_size", "kv_dtype"),
    [
        (True, 8, "auto"),
        (False, 8, "auto"),
        (True, None, "auto"),
        pytest.param(True, 8, "int8", marks=pytest.mark.slow),
    ],
)
def test_prompts_prefilled_in_any_way_have_the_same_keys_and_values(unroll, page_size, kv_dtype, tiny):
    """Alone or together, whole or in chunks, chunks of one prompt in one call or in several; one prompt is laid out.
    What the pages hold before does not matter."""
    model = DecoderStepModel(tiny(), unroll=unroll, page_size=page_size, kv_dtype=kv_dtype)
    layout, slots = transcripts(1)[0], 128
    rng = np.random.default_rng(3)
    counts = len(layout.segment), 21
    positions = [layout.position, np.arange(counts[1])]
    tokens = [rng.integers(0, model.vocab_size, count) for count in counts]
    hide_2ES = np.zeros((2, 2, len(layout.hide_start), slots), np.int32)
    hide_2ES[:, 0, :, : counts[0]] = layout.hide_start, layout.hide_end
    table = rng.permutation(2 * slots // 8).reshape(2, -1).astype(np.int32)
    prefill = jax.jit(model.prefill)

    def rubbish(x):
        return x + jnp.nan if jnp.issubdtype(x.dtype, jnp.floating) else x + 99

    def filled(T, *calls):
        """Keys and values of both prompts' slots after calls of (prompt, offset, length) for each row, and blanks."""
        if page_size is None:
            kv = model.init_kv(2, slots)
        else:
            kv = model.with_table(jax.tree.map(rubbish, model.init_pages(2 * slots // 8)), table)
        for rows in calls:
            rows = [*rows, *[(0, 0, 0)] * (5 - len(rows))]
            cells = [(r, (at + np.arange(T)) % counts[r]) for r, at, _ in rows]
            ids, position = (np.stack([x[r][cell] for r, cell in cells]) for x in (tokens, positions))
            request, offset, length = np.array(rows, np.int32).T
            kv = prefill(model.params, kv, ids, position, *hide_2ES[:, request], request, offset, length)
        out = []
        for array in jax.tree.leaves((kv.k, kv.v)):
            if page_size is not None:
                layers = 1 if unroll else model.config.layers
                array = array.reshape(layers, -1, *array.shape[1:])[:, table]  # [layers, R, M, K, Z, H]
                array = array.swapaxes(3, 4).reshape(layers, 2, slots, -1)
            else:
                array = array.swapaxes(1, 2).reshape(1, 2, slots, -1)
            out += [np.asarray(array[:, r, :count]) for r, count in enumerate(counts)]
        return out

    whole = [(r, 0, count) for r, count in enumerate(counts)]
    chunks = [[(r, at, min(64, count - at)) for at in range(0, count, 64)] for r, count in enumerate(counts)]
    assert len(chunks[0]) == 2
    wanted = filled(128, *([row] for row in whole))
    for T, *calls in (
        (128, whole),
        (64, *([chunk] for chunk in chunks[0] + chunks[1])),
        (64, [*chunks[0], *chunks[1]]),
        (64, [(0, 0, 0), *chunks[1]], chunks[0][:1], chunks[0][1:]),
    ):
        for got, expected in zip(filled(T, *calls), wanted):
            if got.dtype == np.int8:  # Rounding may tell numbers apart that lie on both sides of a half.
                assert np.mean(got != expected) < 1e-3
                assert np.abs(got.astype(int) - expected).max() <= 1
            else:
                assert np.abs(got - expected).max() <= (2e-6 if kv_dtype == "auto" else 1e-3) * np.abs(expected).max()


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the CPU compiler's copies")
@pytest.mark.parametrize(
    ("requests", "lanes", "page_size"),
    [*((*size, None) for size in ((1, 1), (1, 2), (1, 8), (3, 1), (2, 4))), (1, 1, 32), (2, 4, 32)],
)
def test_the_compiled_loop_copies_no_stream(requests, lanes, page_size, tiny):
    """All streams are donated to a loop of decode steps and stay where they are."""
    model = DecoderStepModel(tiny(), unroll=True, page_size=page_size)
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
    program = jax.jit(loop, donate_argnums=1).lower(model.params, streams_of(model, requests), row, placement)
    text = program.compile().as_text()
    shape = rf"f32\[({requests},2|{2 * requests}|2),{SLOTS},8\]"
    if page_size is not None:
        pages = model.config.layers * (requests * SLOTS // page_size + 3)
        shape = rf"f32\[{pages},2,{page_size},8\]"
    assert re.search(rf"= {shape}\S* (fusion|dynamic-update-slice|scatter|while)\(", text)
    assert not re.findall(rf"= {shape}\S* copy\(.*", text)
