"""The XLA attention lowers for chips that this machine need not have."""

import jax
import jax.numpy as jnp
import mvjax_kernels
import pytest
from jax import export


def array(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype)


@pytest.mark.aot
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_attention_and_its_gradients_lower(platform, dtype):
    def loss(q, k, v, start, end, offset):
        o, lse = mvjax_kernels.attention(q, k, v, start, end, q_offset_B=offset, soft_cap=30.0, return_lse=True)
        return o.astype(jnp.float32).sum() + lse.sum()

    q, kv = array(2, 300, 8, 128, dtype=dtype), array(2, 1000, 2, 128, dtype=dtype)
    hide, offset = array(2, 4, 1000, dtype=jnp.int32), array(2, dtype=jnp.int32)
    exported = export.export(jax.jit(jax.grad(loss, (0, 1, 2))), platforms=[platform])(q, kv, kv, hide, hide, offset)
    assert exported.platforms == (platform,)
    assert [out.shape for out in exported.out_avals] == [q.shape, kv.shape, kv.shape]


@pytest.mark.aot
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_stream_attention_lowers(platform):
    q, kv, words = array(4, 16, 8, 128), array(4, 2, 2048, 128), array(4, 2048, dtype=jnp.uint32)
    exported = export.export(jax.jit(mvjax_kernels.stream_attention), platforms=[platform])(q, kv, kv, words)
    assert [out.shape for out in exported.out_avals] == [q.shape]
