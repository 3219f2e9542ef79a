"""The whole generation loop, decode kernel included, compiles for chips that need not be here."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from mvjax.models import DecoderStepModel, ModelConfig
from mvjax.planning.generation import GenerationPlan, Load, describe_service, plan_generation
from mvjax.planning.loop_copies import dimensions, loop_buffers
from mvjax.planning.machines import compile_for, machine
from mvjax.planning.shapes import Shape

GIB = 2**30
QWEN_7B = ModelConfig("qwen2", 152064, 3584, 28, 28, 4, 128, 18944, 1e6, tied=False, max_position=32768)
QWEN_1_5B = dataclasses.replace(QWEN_7B, vocab_size=151936, embed=1536, heads=12, kv_heads=2, ffn=8960, tied=True)
QWEN_32B = dataclasses.replace(QWEN_7B, embed=5120, layers=64, heads=40, kv_heads=8, ffn=27648)
ROWS = 8

pytestmark = pytest.mark.aot


def loop_plan(name: str, config: ModelConfig, requests: int, chips: int = 1, **formats) -> GenerationPlan:
    """Of the loop for this number of requests of 8 branches and 4,096 slots, all live."""
    shape = Shape(config, tuple(range(151665, 151677)), "a published shape")
    return plan_generation(describe_service(shape, machine(name), chips, **formats), Load(requests, ROWS, 4096))


def check(plan: GenerationPlan):
    """Weights are read where they lie: but for the logits, no step makes a buffer as large as the smallest matrix of a
    layer. Nothing of a size comes back to the host."""
    config, compiled = plan.service.shape.config, plan.compiled
    smallest = plan.service.model.formats.weights.itemsize * config.embed * config.heads * config.head_dim
    logits = dimensions((plan.load.rows, config.vocab_size)), (plan.load.rows * config.vocab_size,)
    assert not [str(x) for x in loop_buffers(compiled.text, smallest) if dimensions(x.buffer.shape) not in logits]
    assert not plan.step.weight_copies
    assert all(width <= 8192 for width in plan.step.sorts)
    assert compiled.results < 2**20


@pytest.mark.parametrize(("kind", "requests"), [("h100", 32), ("h200", 1)])
def test_the_loop_of_a_7b_model_fits_a_gpu_and_copies_no_weight(kind, requests):
    plan = loop_plan(f"{kind}:1", QWEN_7B, requests)
    check(plan)
    assert plan.compiled.temporaries < plan.pages / 4
    assert plan.fits


def test_the_loop_of_a_1_5b_model_fits_a_v5e_chip():
    plan = loop_plan("v5e:2x2", QWEN_1_5B, 16)
    check(plan)
    assert plan.compiled.temporaries < plan.pages / 4  # Pages are written in place.
    assert plan.fits


@pytest.mark.parametrize(("weights", "kv"), [("int8", "int8"), ("fp8", "auto"), ("int8", "auto")])
@pytest.mark.parametrize("name", ["h100:1", "v6e:2x2"])
def test_no_step_makes_quantised_weights_wider(name, weights, kv):
    """They go into the products a byte each: no buffer has a matrix's dimensions, in whatever type."""
    if (name, weights) == ("v6e:2x2", "fp8"):
        pytest.skip("v6e does not compute with float8")
    plan = loop_plan(name, dataclasses.replace(QWEN_7B, layers=4), 8, weight_dtype=weights, kv_dtype=kv)
    check(plan)
    assert not plan.step.page_copies
    # Pages of four layers are few: the logits are what is large. A feed-forward matrix in bfloat16 would be larger.
    assert plan.compiled.temporaries < 2.5 * plan.load.rows * QWEN_7B.vocab_size * 4 < 2 * QWEN_7B.embed * QWEN_7B.ffn
    figures = {kind: round(getattr(plan, kind) / GIB, 3) for kind in ("weights", "pages", "rest")}
    print(name, weights, kv, "GiB of 4 layers:", figures, "a slot:", plan.slot)


@pytest.mark.slow
def test_a_32b_model_in_int8_fits_one_gpu_of_80_gb():
    plan = loop_plan("h100:1", QWEN_32B, 8, weight_dtype="int8", kv_dtype="int8")
    check(plan)
    assert plan.compiled.temporaries < plan.pages / 4
    assert plan.weights < 31.4 * GIB
    assert plan.fits
    print("tokens", plan.tokens, {kind: round(getattr(plan, kind) / GIB, 2) for kind in ("weights", "pages", "rest")})


def check_split(name: str, layers: int) -> float:
    """Qwen2.5-32B over eight chips, 64 rows: two sums a layer, one for the embedding, one gathering of logits, and no
    more bytes after the compiler; memory of a chip, which is reported."""
    plan = loop_plan(name, dataclasses.replace(QWEN_32B, layers=layers), 8, chips=8)
    step, config, compiled = plan.step, plan.service.shape.config, plan.compiled
    figures = {kind: round(getattr(plan, kind) / GIB, 3) for kind in ("weights", "pages", "state")}
    figures["temporaries"] = round(compiled.temporaries / GIB, 3)
    asked, found = ({one.kind: (one.count, round(one.nbytes)) for one in x} for x in (step.asked, step.collectives))
    print(name, layers, "layers, GiB a chip:", figures, "asked for:", asked, "compiled:", found, step.kernels)
    assert {kind: count for kind, (count, _) in asked.items()} == {"all-reduce": 2 * layers + 1, "all-gather": 1}
    assert sum(nbytes for _, nbytes in found.values()) <= sum(nbytes for _, nbytes in asked.values())
    assert found.keys() == asked.keys()
    # The step's own sums: of activations in bfloat16, and the logits of a chip in float32.
    rows, share = 8 * ROWS, 7 / 8
    assert asked["all-reduce"][1] == round((2 * layers + 1) * 2 * share * rows * config.embed * 2)
    assert asked["all-gather"][1] == 7 * rows * config.vocab_size // 8 * 4
    assert compiled.results < 2**20
    assert compiled.arguments < plan.weights + plan.pages + 0.05 * GIB
    assert compiled.temporaries < 0.25 * GIB
    assert not step.weight_copies
    # What has a dimension of rows are activations, as are flat logits, which biases are added to. A TPU has room on the
    # chip for the pages of two layers.
    unrolled = isinstance(plan.service.model.params["layers"], list)
    smallest = 2 * config.embed * config.heads * config.head_dim // 8
    # One head of each chip, 256 pages and the one for what belongs nowhere.
    logits, kv = (rows * config.vocab_size,), dimensions((257 * layers, 128, 128))
    made = [
        buffer
        for buffer in loop_buffers(compiled.text, smallest)
        if rows not in buffer.buffer.shape and buffer.buffer.shape != logits
    ]
    assert not [str(buffer) for buffer in made if unrolled or dimensions(buffer.buffer.shape) != kv]
    return plan.weights / GIB


@pytest.mark.parametrize("name", ["h100:8", "v6e:2x4"])
def test_the_loop_of_a_model_over_eight_chips(name):
    check_split(name, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["h100:8", "v6e:2x4", "v5e:2x4"])
def test_the_loop_of_a_32b_model_over_eight_chips(name):
    assert check_split(name, 64) < 7.7


@pytest.mark.parametrize("name", ["v5e:2x2", "h100:1"])
@pytest.mark.parametrize("levels", [0, 5])
def test_prefill_of_several_prompts_gathers_no_stream(name, levels):
    """Eight chunks of 128 tokens: what the program adds does not grow with the page table."""
    chip, config = machine(name).devices[0], dataclasses.replace(QWEN_1_5B, layers=2)
    with jax.default_device(chip):
        model = DecoderStepModel.described(config, weight_dtype="bfloat16")
    assert model.page_size == 128

    def memory_with(slots: int):
        def integers(*shape: int):
            return jax.ShapeDtypeStruct(shape, jnp.int32)

        kv = model.with_table(jax.eval_shape(lambda: model.init_pages(512)), integers(64, slots // 128))
        chunks = *[integers(8, 128)] * 2, *[integers(8, levels, slots)] * 2, *[integers(8)] * 3
        return compile_for(chip, model.prefill, model.params, kv, *chunks, donate=(1,)).memory_analysis()

    narrow, wide = memory_with(2048), memory_with(32768)
    assert wide.alias_size_in_bytes >= 2 * 2 * 512 * config.kv_heads * 128 * config.head_dim * 2
    # A TPU may bring the intervals into another layout: 2 x 8 x E x 32,768 numbers, E filled up to 8.
    assert wide.temp_size_in_bytes < narrow.temp_size_in_bytes + 2**20 + (2**24 if levels else 0)
