"""Scalar decoders of GGUF's quantised blocks, one value at a time, after ggml's reference C code."""

import numpy as np


def half(block, at):
    return float(np.frombuffer(bytes(block[at : at + 2]), "<f2")[0])


def q8_0(block):
    d, q = half(block, 0), np.frombuffer(bytes(block[2:34]), np.int8)
    return [d * int(x) for x in q]


def q4_0(block):
    d, q = half(block, 0), block[2:18]
    return [d * ((x & 15) - 8) for x in q] + [d * ((x >> 4) - 8) for x in q]


def q4_1(block):
    d, m, q = half(block, 0), half(block, 2), block[4:20]
    return [d * (x & 15) + m for x in q] + [d * (x >> 4) + m for x in q]


def q5_0(block):
    d, high, q = half(block, 0), int.from_bytes(bytes(block[2:6]), "little"), block[6:22]
    low = [d * (((x & 15) | ((high >> j & 1) << 4)) - 16) for j, x in enumerate(q)]
    return low + [d * (((x >> 4) | ((high >> (j + 16) & 1) << 4)) - 16) for j, x in enumerate(q)]


def q5_1(block):
    d, m, high, q = half(block, 0), half(block, 2), int.from_bytes(bytes(block[4:8]), "little"), block[8:24]
    low = [d * ((x & 15) | ((high >> j & 1) << 4)) + m for j, x in enumerate(q)]
    return low + [d * ((x >> 4) | ((high >> (j + 16) & 1) << 4)) + m for j, x in enumerate(q)]


def scale_and_minimum(packed, j):
    """The j-th of eight 6-bit scales and minima in twelve bytes."""
    if j < 4:
        return packed[j] & 63, packed[j + 4] & 63
    scale = (packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4)
    return scale, (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4)


def q4_k(block):
    d, dmin, packed, q = half(block, 0), half(block, 2), block[4:16], block[16:144]
    out = []
    for group in range(8):
        scale, minimum = scale_and_minimum(packed, group)
        for x in q[32 * (group // 2) : 32 * (group // 2) + 32]:
            out.append(d * scale * (x >> 4 if group % 2 else x & 15) - dmin * minimum)
    return out


def q5_k(block):
    d, dmin, packed, high, q = half(block, 0), half(block, 2), block[4:16], block[16:48], block[48:176]
    out = []
    for group in range(8):
        scale, minimum = scale_and_minimum(packed, group)
        for j, x in enumerate(q[32 * (group // 2) : 32 * (group // 2) + 32]):
            value = (x >> 4 if group % 2 else x & 15) + 16 * (high[j] >> group & 1)
            out.append(d * scale * value - dmin * minimum)
    return out


def q6_k(block):
    low, high, scales, d = block[:128], block[128:192], np.frombuffer(bytes(block[192:208]), np.int8), half(block, 208)
    out = [0.0] * 256
    for part in range(2):
        for j in range(32):
            bits = high[32 * part + j]
            first, second = low[64 * part + j], low[64 * part + j + 32]
            for quarter, nibble in enumerate((first & 15, second & 15, first >> 4, second >> 4)):
                value = (nibble | ((bits >> 2 * quarter & 3) << 4)) - 32
                scale = int(scales[8 * part + j // 16 + 2 * quarter])
                out[128 * part + 32 * quarter + j] = d * scale * value
    return out


# storage type -> (decoder, values in a block, bytes in a block, places of the half-precision factors)
BLOCKS = {
    "Q8_0": (q8_0, 32, 34, (0,)),
    "Q4_0": (q4_0, 32, 18, (0,)),
    "Q4_1": (q4_1, 32, 20, (0, 2)),
    "Q5_0": (q5_0, 32, 22, (0,)),
    "Q5_1": (q5_1, 32, 24, (0, 2)),
    "Q4_K": (q4_k, 256, 144, (0, 2)),
    "Q5_K": (q5_k, 256, 176, (0, 2)),
    "Q6_K": (q6_k, 256, 210, (208,)),
}


def random_blocks(kind, rows, columns, seed=0):
    """Rows of random blocks as bytes: every bit pattern in the quantised part, factors of a sensible size."""
    _, values, size, factors = BLOCKS[kind]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (rows * columns // values, size), dtype=np.uint8)
    for at in factors:
        factor = rng.normal(0, 0.1, len(blocks)).astype("<f2")
        blocks[:, at : at + 2] = factor.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


def decode(kind, raw):
    """The values of rows of blocks, in float64."""
    decoder, _, size, _ = BLOCKS[kind]
    return np.array([[x for block in row.reshape(-1, size) for x in decoder([int(b) for b in block])] for row in raw])
