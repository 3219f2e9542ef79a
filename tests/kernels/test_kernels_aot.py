"""The kernels compile for TPUs and an H100 that need not be here: what the compilers accept and how much is used."""

import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import mvjax_kernels
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from mvjax_kernels import tuning
from mvjax_kernels.tpu import attention as tpu_attention

from mvjax.planning.machines import TPUS, compile_for, h100, tpu, tpu_slice

MIB = 2**20
pytestmark = pytest.mark.aot
FIRST, *OTHERS = TPUS
SLOW = pytest.mark.slow


def array(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype)


def training(q, k, v, start, end, do):
    """Forward and backward; all results are kept."""
    (o, lse), pull = jax.vjp(lambda *qkv: mvjax_kernels.attention(*qkv, start, end, return_lse=True), q, k, v)
    return o, lse, *pull((do, jnp.zeros_like(lse)))


def attention_arrays(length, heads=8, kv_heads=2, head=128, levels=4, dtype=jnp.bfloat16):
    q, kv = array(1, length, heads, head, dtype=dtype), array(1, length, kv_heads, head, dtype=dtype)
    hide = array(1, levels, length, dtype=jnp.int32)
    return q, kv, kv, hide, hide, q


def temporaries(device, length, **shape):
    program = compile_for(device, training, *attention_arrays(length, **shape), any_layout=device.platform == "tpu")
    return program.memory_analysis().temp_size_in_bytes / MIB


@pytest.mark.parametrize("name", [FIRST, *(pytest.param(name, marks=SLOW) for name in OTHERS)])
def test_training_on_a_tpu_needs_little_memory_at_any_length(name):
    short, long, longest = (temporaries(tpu(name), length) for length in (8_192, 32_768, 131_072))
    assert long < 64
    assert longest <= 4.2 * max(long, short)


@pytest.mark.parametrize(
    "shape", [{"head": 64, "heads": 9, "kv_heads": 3}, {"head": 256, "dtype": jnp.float32}], ids=str
)
def test_other_heads_compile_for_a_tpu(shape):
    assert temporaries(tpu("v5e:2x2"), 4096, **shape) < 64


@pytest.mark.parametrize(
    ("rows", "block", "fits"), [pytest.param(512, 1024, True, marks=SLOW), pytest.param(1024, 1024, False, marks=SLOW)]
)
def test_the_estimate_of_vector_memory_agrees_with_the_compiler(rows, block, fits):
    """On a v5e: the largest tile that the estimate lets pass, 13.5 of 16 MiB, and the next one, 20 MiB."""
    chip, (q, kv, _, start, end, _) = tuning.TPU["v5e"], attention_arrays(2048, heads=1, kv_heads=1)
    assert (tuning.attention_vmem(rows, block, 128, 2, 4) <= chip.vmem) == fits

    def run(q, k, v, start, end, offset, do):
        def call(*qkv):
            return tpu_attention.attention(*qkv, start, end, offset, 128**-0.5, None, rows, block, False)

        (o, lse), pull = jax.vjp(call, q, k, v)
        return o, lse, *pull((do, jnp.zeros_like(lse)))

    arrays = (q, kv, kv, start, end, array(1, 1, dtype=jnp.int32), q)
    if fits:
        compile_for(tpu("v5e:2x2"), run, *arrays, any_layout=True)
    else:
        with pytest.raises(jax.errors.JaxRuntimeError, match="vmem") as refusal:
            compile_for(tpu("v5e:2x2"), run, *arrays, any_layout=True)
        (size,) = set(re.findall(r"allocation with size ([\d.]+)M and limit 16.00M", str(refusal.value)))
        assert 0.95 <= tuning.attention_vmem(rows, block, 128, 2, 4) / MIB / float(size) <= 1.1


@pytest.mark.parametrize("group", [9, 17])
def test_any_number_of_heads_in_a_group_compiles_for_a_tpu(group):
    assert temporaries(tpu("v5e:2x2"), 1024, heads=2 * group, kv_heads=2) < 64


def test_training_on_a_gpu_needs_little_memory_at_any_length():
    short, long, longest = (temporaries(h100(), length) for length in (8_192, 32_768, 131_072))
    assert long < 64
    assert longest <= 4.2 * max(long, short)


@pytest.mark.parametrize(
    "shape",
    [{"head": 64, "heads": 9, "kv_heads": 3, "dtype": jnp.float32}, {"head": 256, "dtype": jnp.float16}],
    ids=str,
)
def test_other_heads_compile_for_a_gpu(shape):
    assert temporaries(h100(), 4096, **shape) < 64


def test_a_sharded_call_compiles_for_a_tpu_slice():
    """Four chips: two along the heads, two along the context."""
    mesh = Mesh(np.array(tpu_slice("v5e:2x2")).reshape(2, 2), ("t", "c"), axis_types=(AxisType.Auto,) * 2)
    call = functools.partial(mvjax_kernels.sharded_attention, split=mvjax_kernels.Split(mesh, heads="t", context="c"))

    def run(q, k, v, start, end, do):
        o, pull = jax.vjp(lambda *qkv: call(*qkv, start, end), q, k, v)
        return o, *pull(do)

    side, whole = NamedSharding(mesh, P(None, "c", "t")), NamedSharding(mesh, P())
    places = (side, side, side, whole, whole, side)
    with jax.default_device(mesh.devices[0, 0]):
        traced = jax.jit(run, in_shardings=places).trace(*attention_arrays(8192))
        text = traced.lower(lowering_platforms=("tpu",)).compile().as_text()
    assert "all-gather" in text
    assert "custom-call" in text


def decode_arrays(pages=2048, requests=64, lanes=8, heads=28, kv_heads=4, head=128, page=128, most=64, kind=None):
    kv = array(pages, kv_heads, page, head, dtype=kind or jnp.bfloat16)
    table, length = array(requests, most, dtype=jnp.int32), array(requests, dtype=jnp.int32)
    words = array(requests, most * page, dtype=jnp.uint32)
    scale = array(pages, kv_heads, page, dtype=jnp.float32)
    return array(requests, lanes, heads, head), kv, kv, table, length, words, *([scale, scale] if kind else [])


def decode(q, k, v, pages, length, words, *scales):
    named = dict(zip(("k_scale_PKZ", "v_scale_PKZ"), scales))
    return mvjax_kernels.paged_decode_attention(q, k, v, pages, length, words, **named)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, None) for name in TPUS),
        *((FIRST, kind) for kind in (jnp.int8, jnp.float8_e4m3fn)),
        *(pytest.param(name, kind, marks=SLOW) for name in OTHERS for kind in (jnp.int8, jnp.float8_e4m3fn)),
    ],
    ids=str,
)
def test_decoding_64_requests_compiles_for_a_tpu(name, kind):
    program = compile_for(tpu(name), decode, *decode_arrays(kind=kind))
    assert program.memory_analysis().temp_size_in_bytes < 16 * MIB


@pytest.mark.parametrize("kind", [None, jnp.int8, jnp.float8_e4m3fn], ids=str)
def test_decoding_64_requests_compiles_for_a_gpu(kind):
    program = compile_for(h100(), decode, *decode_arrays(kind=kind))
    assert program.memory_analysis().temp_size_in_bytes < 64 * MIB


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_xla_backend_lowers_for_other_platforms(platform, dtype):
    def loss(q, k, v, start, end, offset):
        options = {"q_offset": offset, "soft_cap": 30.0, "return_lse": True, "backend": "xla"}
        o, lse = mvjax_kernels.attention(q, k, v, start, end, **options)
        return o.astype(jnp.float32).sum() + lse.sum()

    q, kv = array(2, 300, 8, 128, dtype=dtype), array(2, 1000, 2, 128, dtype=dtype)
    hide, offset = array(2, 4, 1000, dtype=jnp.int32), array(2, dtype=jnp.int32)
    gradients = jax.jit(jax.grad(loss, (0, 1, 2)))
    exported = jax.export.export(gradients, platforms=[platform])(q, kv, kv, hide, hide, offset)
    assert [out.shape for out in exported.out_avals] == [q.shape, kv.shape, kv.shape]
