"""The TPU kernels under the strict interpreter: copies happen when they are waited for and not before, memory that was
not written is NaN, and two accesses without an order between them are reported."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from mvjax_kernels.tpu import attention as tpu_attention
from mvjax_kernels.tpu import decode_attention as tpu_decode
from mvjax_kernels.tpu import write_paged_kv as tpu_write
from oracle import attend, interval_mask
from packed_trees import packed_batch

STRICT = pltpu.InterpretParams(dma_execution_mode="on_wait", uninitialized_memory="nan", detect_races=True)


@pytest.fixture
def no_races(capfd):
    yield
    said = capfd.readouterr()
    assert "race" not in (said.out + said.err).lower(), said.out[-2000:]


def close(got, wanted, bound):
    got, finite = np.asarray(got, np.float64), np.isfinite(wanted)
    np.testing.assert_array_equal(np.isfinite(got), finite)
    assert np.abs(got[finite] - wanted[finite]).max() <= bound * max(1, np.abs(wanted[finite]).max())


@pytest.mark.slow
def test_attention_forward_and_backward(no_races):
    B, T, N, K, H, E = 2, 40, 2, 1, 16, 3
    rng = np.random.default_rng(0)
    start_BES, end_BES, _ = packed_batch(1, B, T, E)
    q, k, v, do = (jnp.asarray(rng.normal(size=(B, T, n, H)), jnp.float32) for n in (N, K, K, N))
    offset_BC, hide = jnp.zeros((B, 1), jnp.int32), (jnp.asarray(start_BES), jnp.asarray(end_BES))

    @jax.jit
    def run(q, k, v, do):
        def call(q, k, v):
            return tpu_attention.attention(q, k, v, *hide, offset_BC, H**-0.5, None, 8, 16, STRICT)

        (o, lse), pull = jax.vjp(call, q, k, v)
        return o, lse, *pull((do, jnp.zeros_like(lse)))

    visible_BTS = interval_mask(start_BES, end_BES, T, np.zeros(B, int))
    wanted = attend(q, k, v, visible_BTS, None, None, (do, np.zeros((B, T, N))))
    for got, right, bound in zip(run(q, k, v, do), wanted, (2e-6, 2e-6, 2e-5, 2e-5, 2e-5)):
        close(got, right, bound)


def test_decoding_over_pages_and_writing_them(no_races):
    R, L, K, G, H, Z, M = 3, 2, 2, 2, 16, 128, 2
    rng = np.random.default_rng(0)
    q = jnp.asarray(rng.normal(size=(R, L, K * G, H)), jnp.float32)
    pages = [rng.normal(size=(R * M, K, Z, H)).astype(np.float32) for _ in range(2)]
    table_RM = rng.permutation(R * M).reshape(R, M).astype(np.int32)
    length_R = np.array([200, 0, 131], np.int32)
    words_RS = rng.integers(0, 2**L, (R, M * Z)).astype(np.uint32)
    new = [jnp.asarray(rng.normal(size=(R, L, K, H)), jnp.float32) for _ in range(2)]

    @jax.jit
    def run(k, v, new_k, new_v, q):
        k, v = tpu_write.write_paged_kv((k, v), (new_k, new_v), *map(jnp.asarray, (table_RM, length_R)), STRICT)
        args = (q, k, v, None, None, *map(jnp.asarray, (table_RM, length_R, words_RS)), H**-0.5, None, STRICT)
        return k, v, tpu_decode.decode_attention(*args)

    *written, o = run(*pages, *new, q)
    for page, fresh, got in zip(pages, new, written):
        for r, lane in np.ndindex(R, L):
            slot = length_R[r] + lane
            page[table_RM[r, slot // Z], :, slot % Z] = fresh[r, lane]
        np.testing.assert_array_equal(got, page)
    streams = [page[table_RM].transpose(0, 1, 3, 2, 4).reshape(R, M * Z, K, H) for page in pages]
    lanes_L1 = np.arange(L, dtype=np.uint32)[:, None]
    sees_RLS = ((words_RS[:, None] >> lanes_L1) & 1 > 0) & (np.arange(M * Z) < length_R[:, None, None])
    close(o, attend(q, *streams, sees_RLS)[0], 2e-6)


def test_a_missing_wait_would_be_seen(no_races, monkeypatch):
    """The checks above can fail: without the waits, what is read was never written."""
    R, K, Z, H = 1, 1, 128, 16
    rng = np.random.default_rng(0)
    k, v = (jnp.asarray(rng.normal(size=(1, K, Z, H)), jnp.float32) for _ in range(2))
    ones = jnp.ones((R, Z), jnp.uint32)
    real = pltpu.make_async_copy

    class NoWait:
        def __init__(self, *ends):
            self.start = real(*ends).start

        def wait(self):
            pass

    monkeypatch.setattr(pltpu, "make_async_copy", NoWait)
    call = functools.partial(
        tpu_decode.decode_attention, scale=1.0, soft_cap=None, interpret=STRICT, k_scale_PKZ=None, v_scale_PKZ=None
    )
    tables = {"pages_RM": jnp.zeros((1, 1), jnp.int32), "length_R": jnp.array([Z])}
    o = call(k[:, :, :1].swapaxes(1, 2), k, v, words_RS=ones, **tables)
    assert np.isnan(o).all()
