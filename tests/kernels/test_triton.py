"""The Triton kernels under Triton's own interpreter, against the dense oracle: TRITON_INTERPRET=1 on any machine."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import attend, interval_mask
from packed_trees import packed_batch

pytestmark = [pytest.mark.aot, pytest.mark.interpreted]

SHAPES = [
    # B, T, S, N, K, H, E, rows, block, soft cap
    (2, 100, 100, 4, 2, 64, 4, 32, 32, None),
    (1, 33, 90, 3, 1, 64, 2, 16, 32, 3.0),
    (1, 61, 61, 2, 2, 128, 6, 32, 16, None),
    (1, 40, 40, 2, 1, 256, 1, 16, 16, 50.0),
]


def close(name, got, wanted, bound):
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(wanted), err_msg=name)
    finite = np.isfinite(wanted)
    largest = np.abs(wanted[finite]).max(initial=1)
    assert np.abs(got[finite] - wanted[finite]).max(initial=0) <= bound * largest, name


@pytest.mark.parametrize(
    ("sizes", "seed", "dtype"),
    [(sizes, seed, np.float32) for sizes in SHAPES for seed in range(2)] + [(SHAPES[0], 0, np.float16)],
    ids=str,
)
def test_training_kernels_equal_the_oracle(sizes, seed, dtype):
    import triton_numpy
    from mvjax_kernels.gpu import attention_kernels
    from mvjax_kernels.tiles import run_lists, runs_per_line, tile_rows

    B, T, S, N, K, H, E, rows, block, soft_cap = sizes
    rng = np.random.default_rng(seed)
    start_BES, end_BES, _ = packed_batch(seed, B, S, E)
    offset_B = rng.integers(0, S - T + 1, B).astype(np.int32)
    if seed:  # Rows that see nothing.
        start_BES[0, 0, : S // 2], end_BES[0, 0, : S // 2] = 0, S // 2
        offset_B[:] = 0
    q, k, v, do = (rng.normal(size=size).astype(dtype) for size in ((B, T, N, H), *[(B, S, K, H)] * 2, (B, T, N, H)))
    dlse = rng.normal(size=(B, T, N)).astype(np.float32)
    arrays = map(jnp.asarray, (start_BES, end_BES, offset_B[:, None]))
    by_rows, by_keys = jax.tree.map(np.array, run_lists(*arrays, T, rows, block))
    first_BQ = np.array(tile_rows(offset_B[:, None], T, rows)[0])
    named = {"T": T, "S": S, "N": N, "K": K, "H": H, "E": E}
    named |= {"RUNS": runs_per_line(E), "ROWS": rows, "BLOCK": block, "CAP": soft_cap is not None}
    hide, scalars = (start_BES, end_BES, first_BQ), (H**-0.5, soft_cap or 1.0)

    o, dq, dk, dv = (np.full(x.shape, np.nan, dtype) for x in (q, q, k, v))
    lse = np.full((B, T, N), np.nan, np.float32)
    tiles, blocks = -(-T // rows), -(-S // block)
    args = (q, k, v, *hide, *by_rows, *scalars, o, lse)
    triton_numpy.run(attention_kernels.forward, (tiles, N, B), *args, **named)
    visible_BTS = interval_mask(*hide[:2], T, offset_B)
    assert visible_BTS.any(-1).all() == (seed == 0)
    dlse = np.where(visible_BTS.any(-1)[..., None], dlse, 0)
    stats = np.where(np.isinf(lse), 0, lse), ((do.astype(np.float32) * o).sum(-1) - dlse).astype(np.float32)
    args = (q, k, v, do, *stats, *hide, *by_rows, *scalars, dq)
    triton_numpy.run(attention_kernels.backward_dq, (tiles, N, B), *args, **named)
    args = (q, k, v, do, *stats, *hide, *by_keys, *scalars, dk, dv)
    triton_numpy.run(attention_kernels.backward_dkv, (blocks, K, B), *args, **named)

    wanted = attend(q, k, v, visible_BTS, None, soft_cap, (do, dlse))
    bounds = [2e-6] * 2 + [2e-5] * 3 if dtype == np.float32 else [2**-10] * 2 + [2**-9] * 3
    for name, got, right, bound in zip(("o", "lse", "dq", "dk", "dv"), (o, lse, dq, dk, dv), wanted, bounds):
        close(name, got.astype(np.float64), right, bound)


@pytest.mark.parametrize(
    ("quantised", "L", "soft_cap"), [(False, 4, None), (True, 4, None), (False, 32, 50.0)], ids=str
)
def test_decode_kernel_equals_the_oracle(quantised, L, soft_cap):
    import triton_numpy
    from mvjax_kernels.gpu import decode_kernels
    from mvjax_kernels.xla.decode_attention import merge_parts

    R, K, G, H, Z, M, splits, block = 3, 2, 3, 64, 64, 4, 3, 32
    rng = np.random.default_rng(0)
    q = rng.normal(size=(R, L, K * G, H)).astype(np.float32)
    k, v = (rng.normal(size=(R * M, K, Z, H)).astype(np.float32) for _ in range(2))
    scales = [rng.uniform(0.01, 0.1, (R * M, K, Z)).astype(np.float32) for _ in range(2)]
    if quantised:
        k, v = (np.round(40 * x).clip(-127, 127).astype(np.int8) for x in (k, v))
    pages_RM = rng.permutation(R * M).reshape(R, M).astype(np.int32)
    length_R = np.array([150, 0, M * Z], np.int32)
    words_RS = rng.integers(0, 2**L, (R, M * Z)).astype(np.uint32).view(np.int32)  # Bit 31 is the sign.
    sees_RLS = ((words_RS[:, None] >> np.arange(L)[:, None]) & 1 > 0) & (np.arange(M * Z) < length_R[:, None, None])
    real = [(x * s[..., None] if quantised else x)[pages_RM] for x, s in zip((k, v), scales)]
    k_RSKH, v_RSKH = (x.transpose(0, 1, 3, 2, 4).reshape(R, M * Z, K, H) for x in real)
    wanted, _ = attend(q, k_RSKH, v_RSKH, sees_RLS, None, soft_cap)
    if not quantised:
        for r, m, z in np.ndindex(R, M, Z):
            if m * Z + z >= length_R[r]:
                k[pages_RM[r, m], :, z] = v[pages_RM[r, m], :, z] = np.nan

    rows = 1 << (L * G - 1).bit_length()
    o, lse = np.full((R, K, splits, rows, H), np.nan, np.float32), np.full((R, K, splits, rows), np.nan, np.float32)
    named = {"L": L, "N": K * G, "K": K, "H": H, "Z": Z, "PAGES": M}
    named |= {"ROWS": rows, "BLOCK": block, "CAP": soft_cap is not None, "QUANTISED": quantised}
    args = (q, k, v, *scales, pages_RM, length_R, words_RS, H**-0.5, soft_cap or 1.0, o, lse)
    triton_numpy.run(decode_kernels.decode, (splits, K, R), *args, **named)
    got = np.asarray(merge_parts(o, lse))[:, :, : L * G].reshape(R, K, L, G, H).transpose(0, 2, 1, 3, 4)
    close("o", got.reshape(R, L, K * G, H), wanted, 2e-6)
