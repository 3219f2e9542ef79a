"""The whole generation loop, decode kernel included, compiles for chips that need not be here."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from random_requests import TABLES

from mvjax.engine import decode_loop
from mvjax.engine.state import Sizes, empty_state
from mvjax.engine.tables import build_tables
from mvjax.models import DecoderStepModel, ModelConfig, TensorParallelModel
from mvjax.models.tensor_parallel import heads_spec
from mvjax.models.tensor_split import tensor_mesh
from mvjax.planning.loop_copies import dimensions, loop_buffers
from mvjax.planning.machines import compile_for, gpus, lowering_platform, machine, tpu, uncached
from mvjax.planning.sorts import sort_widths

GIB = 2**30
QWEN_7B = ModelConfig("qwen2", 152064, 3584, 28, 28, 4, 128, 18944, 1e6, tied=False, max_position=32768)
QWEN_1_5B = dataclasses.replace(QWEN_7B, vocab_size=151936, embed=1536, heads=12, kv_heads=2, ffn=8960, tied=True)
QWEN_32B = dataclasses.replace(QWEN_7B, embed=5120, layers=64, heads=40, kv_heads=8, ffn=27648)
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "collective_permute")
ROWS, MAX_PATHS = 8, 16


def loop_program(device, config: ModelConfig, requests: int, slots: int, pages: int):
    """The loop for so many requests of 8 branches, all live."""
    with jax.default_device(device):
        model = DecoderStepModel.described(config, weight_dtype="bfloat16")
    function, *arguments = loop_of(model, requests, slots, pages)
    return compile_for(device, function, *arguments, donate=(2, 3))


def loop_of(model, requests: int, slots: int, pages: int):
    """It as a function, and the shapes of its arguments."""
    assert model.page_size == 128
    tables = build_tables(wide(TABLES, model.vocab_size), TABLES.eos_ids, MAX_PATHS)
    sizes = Sizes(requests, slots, ROWS, 3, MAX_PATHS, tables.number.shape[1], pages)
    table = jax.ShapeDtypeStruct((requests, slots // 128), jnp.int32)
    kv = model.with_table(jax.eval_shape(lambda: model.init_pages(pages)), table)
    state = jax.eval_shape(lambda: empty_state(sizes))
    run = functools.partial(decode_loop.run, model, width=requests * ROWS, narrower=0, log_steps=32)
    room, steps = jax.ShapeDtypeStruct((requests,), jnp.int32), jax.ShapeDtypeStruct((), jnp.int32)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), tables)
    return run, model.params, shapes, kv, state, room, steps


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


def split_loop(name: str, config: ModelConfig, requests: int):
    """The loop over eight described chips, 4096 slots a request: the model, the lowered program, the compiled one."""
    chips = machine(name).devices
    with jax.default_device(chips[0]), uncached():
        model = TensorParallelModel(config, tensor_mesh(8, chips), weight_dtype="bfloat16")

        def placed(tree, sharding=None):
            def one(x):
                place = sharding or NamedSharding(model.mesh, heads_spec(x.ndim))
                return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)

            return jax.tree.map(one, tree)

        run, params, shapes, kv, *rest = loop_of(model, requests, 4096, 32 * requests)
        kv = placed(kv)._replace(table=placed(kv.table, model.replicated))
        arguments = params, placed(shapes, model.replicated), kv, *placed(rest, model.replicated)
        traced = jax.jit(run, donate_argnums=(2, 3)).trace(*arguments)
        lowered = traced.lower(lowering_platforms=(lowering_platform(chips[0]),))
        return model, lowered.as_text(), lowered.compile()


def check_split(name: str, layers: int):
    """Qwen2.5-32B over eight chips, 64 rows: two sums a layer, one for the embedding, one gathering of logits; what of
    them there is after the compiler; memory of a chip, which is reported."""
    config = dataclasses.replace(QWEN_32B, layers=layers)
    model, lowered, program = split_loop(name, config, 8)
    text, memory = program.as_text(), program.memory_analysis()
    bodies = layers if model.unroll else 1  # A scanned layer stands in the program once.
    counts = {kind: lowered.count(f'"stablehlo.{kind}"') for kind in COLLECTIVES}
    assert counts == dict.fromkeys(COLLECTIVES, 0) | {"all_reduce": 2 * bodies + 1, "all_gather": 1}
    compiled = {kind: len(re.findall(rf" {kind.replace('_', '-')}(-start)?\(", text)) for kind in COLLECTIVES}
    assert compiled == counts | {"all_reduce": compiled["all_reduce"]}
    assert 0 < compiled["all_reduce"] <= counts["all_reduce"]

    def share(tree):
        return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))

    weights, pages = share(model.params), 2 * layers * 256 * 128 * 128 * 2
    figures = {"weights": weights, "pages": pages, "temporaries": memory.temp_size_in_bytes}
    print(name, layers, "layers, GiB a chip:", {kind: round(size / GIB, 3) for kind, size in figures.items()}, compiled)
    assert memory.alias_size_in_bytes >= pages
    assert memory.argument_size_in_bytes < weights + pages + 0.05 * GIB
    assert memory.temp_size_in_bytes < 0.25 * GIB
    # What has a dimension of rows are activations, as are flat logits, which biases are added to. A TPU has room on the
    # chip for the pages of two layers.
    smallest, kv = 2 * config.embed * config.heads * config.head_dim // 8, dimensions((256 * layers, 128, 128))
    logits = (8 * ROWS * config.vocab_size,)
    made = [
        buffer
        for buffer in loop_buffers(text, smallest)
        if 8 * ROWS not in buffer.buffer.shape and buffer.buffer.shape != logits
    ]
    assert not [str(buffer) for buffer in made if model.unroll or dimensions(buffer.buffer.shape) != kv]
    return weights / GIB


@pytest.mark.aot
@pytest.mark.parametrize("name", ["h100:8", "v6e:2x4"])
def test_the_loop_of_a_model_over_eight_chips(name):
    check_split(name, 2)


@pytest.mark.aot
@pytest.mark.slow
@pytest.mark.parametrize("name", ["h100:8", "v6e:2x4", "v5e:2x4"])
def test_the_loop_of_a_32b_model_over_eight_chips(name):
    assert check_split(name, 64) < 7.7
