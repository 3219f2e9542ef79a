"""The whole generation loop, decode kernel included, compiles for chips that need not be here."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_requests import TABLES

from mvjax.engine import decode_loop
from mvjax.engine.state import Sizes, empty_state
from mvjax.engine.tables import build_tables
from mvjax.models import DecoderStepModel, ModelConfig
from mvjax.planning.loop_copies import dimensions, loop_buffers
from mvjax.planning.machines import compile_for, gpus, tpu
from mvjax.planning.sorts import sort_widths

GIB = 2**30
QWEN_7B = ModelConfig("qwen2", 152064, 3584, 28, 28, 4, 128, 18944, 1e6, tied=False, max_position=32768)
QWEN_1_5B = dataclasses.replace(QWEN_7B, vocab_size=151936, embed=1536, heads=12, kv_heads=2, ffn=8960, tied=True)
ROWS, MAX_PATHS = 8, 16


def loop_program(device, config: ModelConfig, requests: int, slots: int, pages: int):
    """The loop for so many requests of 8 branches, all live."""
    with jax.default_device(device):
        model = DecoderStepModel.described(config, dtype=jnp.bfloat16)
    assert model.page_size == 128
    tables = build_tables(wide(TABLES, config.vocab_size), TABLES.eos_ids, MAX_PATHS)
    sizes = Sizes(requests, slots, ROWS, 3, MAX_PATHS, tables.number.shape[1], pages)
    table = jax.ShapeDtypeStruct((requests, slots // 128), jnp.int32)
    kv = model.with_table(jax.eval_shape(lambda: model.init_pages(pages)), table)
    state = jax.eval_shape(lambda: empty_state(sizes))
    run = functools.partial(decode_loop.run, model, width=requests * ROWS, narrower=0)
    room, steps = jax.ShapeDtypeStruct((requests,), jnp.int32), jax.ShapeDtypeStruct((), jnp.int32)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), tables)
    return compile_for(device, run, model.params, shapes, kv, state, room, steps, donate=(2, 3))


def wide(tables, vocabulary: int):
    """The tables of a vocabulary that is longer by plain text."""
    more = vocabulary - len(tables.codes)
    fill = {"codes": -1, "colon": False, "newline": False}
    return dataclasses.replace(
        tables, **{name: np.pad(getattr(tables, name), (0, more), constant_values=fill[name]) for name in fill}
    )


def check(program, config: ModelConfig, pages: int, rows: int):
    """Pages are written in place: what the program adds to its arguments is far less than they take. Weights are read
    where they lie: but for the logits, no step makes a buffer as large as the smallest matrix of a layer."""
    text = program.as_text()
    smallest = 2 * config.embed * config.heads * config.head_dim
    logits = dimensions((rows, config.vocab_size))
    assert not [str(made) for made in loop_buffers(text, smallest) if dimensions(made.buffer.shape) != logits]
    assert all(width <= 8192 for width in sort_widths(text))
    memory = program.memory_analysis()
    kv = 2 * config.layers * pages * config.kv_heads * 128 * config.head_dim * 2
    assert memory.alias_size_in_bytes >= kv
    assert memory.temp_size_in_bytes < kv / 4
    return memory


@pytest.mark.aot
@pytest.mark.parametrize(("kind", "requests"), [("h100", 32), ("h200", 1)])
def test_the_loop_of_a_7b_model_fits_a_gpu_and_copies_no_weight(kind, requests):
    pages = 32 * requests
    program = loop_program(gpus(kind, 1)[0], QWEN_7B, requests, 4096, pages)
    memory = check(program, QWEN_7B, pages, requests * ROWS)
    assert memory.argument_size_in_bytes + memory.temp_size_in_bytes < 80e9


@pytest.mark.aot
def test_the_loop_of_a_1_5b_model_fits_a_v5e_chip():
    memory = check(loop_program(tpu("v5e:2x2"), QWEN_1_5B, 16, 4096, 512), QWEN_1_5B, 512, 16 * ROWS)
    assert memory.argument_size_in_bytes + memory.temp_size_in_bytes < 16 * GIB
