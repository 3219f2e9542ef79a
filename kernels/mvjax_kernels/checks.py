"""Checks of calls while they are traced: shapes, dtypes, scalars; and, on request, values on the device."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.experimental import checkify

from mvjax_kernels.tiles import INT32_MAX

FLOATS = (jnp.float32, jnp.bfloat16, jnp.float16)
QUANTISED = (jnp.int8, jnp.float8_e4m3fn, jnp.float8_e5m2)


def check_shape(name: str, array: jax.Array, letters: str, sizes: dict[str, int]) -> None:
    """Fills `sizes` with the letters seen for the first time and compares the others."""
    if array.ndim != len(letters):
        raise ValueError(f"{name} needs {len(letters)} dimensions [{', '.join(letters)}], got shape {array.shape}")
    for letter, size in zip(letters, array.shape):
        if sizes.setdefault(letter, size) != size:
            raise ValueError(f"{name} has shape {array.shape}, but {letter} is {sizes[letter]} in the arguments before")
    if 0 in array.shape:
        raise ValueError(f"{name} has an empty dimension: shape {array.shape}")


def check_floats(**arrays: jax.Array) -> None:
    dtypes = {name: array.dtype for name, array in arrays.items()}
    for name, dtype in dtypes.items():
        if dtype not in FLOATS:
            raise TypeError(f"{name} must be float32, bfloat16 or float16, got {dtype}")
    if len(set(dtypes.values())) > 1:
        raise TypeError("q, k and v must have one dtype, got " + ", ".join(f"{n} {d}" for n, d in dtypes.items()))


def check_heads(sizes: dict[str, int]) -> None:
    if sizes["N"] % sizes["K"]:
        raise ValueError(f"{sizes['N']} query heads are no multiple of {sizes['K']} kv heads")


def check_attention(q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES, q_offset) -> None:
    sizes: dict[str, int] = {}
    check_shape("q", q_BTNH, "BTNH", sizes)
    check_shape("k", k_BSKH, "BSKH", sizes)
    check_shape("v", v_BSKH, "BSKH", sizes)
    check_shape("hide_start", hide_start_BES, "BES", sizes)
    check_shape("hide_end", hide_end_BES, "BES", sizes)
    check_floats(q=q_BTNH, k=k_BSKH, v=v_BSKH)
    check_heads(sizes)
    for name, array in (("hide_start", hide_start_BES), ("hide_end", hide_end_BES), ("q_offset", q_offset)):
        if array is not None and array.dtype != jnp.int32:
            raise TypeError(f"{name} must be int32, got {array.dtype}")
    if q_offset is not None:
        check_shape("q_offset", q_offset, "BC" if q_offset.ndim > 1 else "B", sizes)
        if sizes["T"] % sizes.get("C", 1):
            raise ValueError(f"{sizes['T']} queries do not split into {sizes['C']} chunks of equal length")


def check_decode(q_RLNH, k_RKSH, v_RKSH, words_RS) -> None:
    sizes: dict[str, int] = {}
    check_shape("q", q_RLNH, "RLNH", sizes)
    check_shape("k", k_RKSH, "RKSH", sizes)
    check_shape("v", v_RKSH, "RKSH", sizes)
    check_shape("words", words_RS, "RS", sizes)
    check_floats(q=q_RLNH, k=k_RKSH, v=v_RKSH)
    check_heads(sizes)
    check_lanes(sizes["L"], words_RS.dtype)


def check_paged(q_RLNH, k_PKZH, v_PKZH, pages_RM, length_R, words_RS, k_scale_PKZ, v_scale_PKZ) -> None:
    """Of `paged_decode_attention`."""
    sizes: dict[str, int] = {}
    check_shape("q", q_RLNH, "RLNH", sizes)
    check_shape("k", k_PKZH, "PKZH", sizes)
    check_shape("v", v_PKZH, "PKZH", sizes)
    check_shape("pages", pages_RM, "RM", sizes)
    check_shape("length", length_R, "R", sizes)
    check_shape("words", words_RS, "RS", sizes)
    if sizes["S"] != sizes["M"] * sizes["Z"]:
        raise ValueError(
            f"words has {sizes['S']} slots, {sizes['M']} pages of {sizes['Z']} have {sizes['M'] * sizes['Z']}"
        )
    check_heads(sizes)
    check_lanes(sizes["L"], words_RS.dtype)
    check_integers(pages=pages_RM, length=length_R)
    check_page_types(q_RLNH, k_PKZH, v_PKZH, k_scale_PKZ, v_scale_PKZ, sizes)


def check_paged_attention(
    q_BTNH, k_PKZH, v_PKZH, pages_BM, hide_start_BES, hide_end_BES, q_offset_B, length_B, k_scale_PKZ, v_scale_PKZ
) -> None:
    """Of `paged_attention`; E may be 0."""
    sizes: dict[str, int] = {}
    check_shape("q", q_BTNH, "BTNH", sizes)
    check_shape("k", k_PKZH, "PKZH", sizes)
    check_shape("v", v_PKZH, "PKZH", sizes)
    check_shape("pages", pages_BM, "BM", sizes)
    check_shape("q_offset", q_offset_B, "B", sizes)
    check_shape("length", length_B, "B", sizes)
    for name, array in (("hide_start", hide_start_BES), ("hide_end", hide_end_BES)):
        wanted = sizes["B"], hide_start_BES.shape[1], sizes["M"] * sizes["Z"]
        if array.shape != wanted:
            raise ValueError(
                f"{name} has shape {array.shape}, {sizes['B']} requests of {sizes['M']} pages of {sizes['Z']} slots "
                f"need {wanted}"
            )
    check_heads(sizes)
    check_integers(
        pages=pages_BM, hide_start=hide_start_BES, hide_end=hide_end_BES, q_offset=q_offset_B, length=length_B
    )
    check_page_types(q_BTNH, k_PKZH, v_PKZH, k_scale_PKZ, v_scale_PKZ, sizes)


def check_integers(**arrays: jax.Array) -> None:
    for name, array in arrays.items():
        if array.dtype != jnp.int32:
            raise TypeError(f"{name} must be int32, got {array.dtype}")


def check_page_types(q, k_PKZH, v_PKZH, k_scale_PKZ, v_scale_PKZ, sizes: dict[str, int]) -> None:
    """Queries against pages: of one type, or quantised ones with scales."""
    if k_scale_PKZ is None and v_scale_PKZ is None:
        check_floats(q=q, k=k_PKZH, v=v_PKZH)
        return
    check_floats(q=q)
    check_scales(k_PKZH, v_PKZH, k_scale_PKZ, v_scale_PKZ, sizes, QUANTISED)


def check_write(k_PKZH, v_PKZH, new_k_RLKH, new_v_RLKH, pages_RM, start_R, k_scale_PKZ, v_scale_PKZ) -> None:
    """Of `write_paged_kv`."""
    sizes: dict[str, int] = {}
    check_shape("k", k_PKZH, "PKZH", sizes)
    check_shape("v", v_PKZH, "PKZH", sizes)
    check_shape("new_k", new_k_RLKH, "RLKH", sizes)
    check_shape("new_v", new_v_RLKH, "RLKH", sizes)
    check_shape("pages", pages_RM, "RM", sizes)
    check_shape("start", start_R, "R", sizes)
    check_integers(pages=pages_RM, start=start_R)
    if k_scale_PKZ is None and v_scale_PKZ is None:
        dtypes = {str(x.dtype) for x in (k_PKZH, v_PKZH, new_k_RLKH, new_v_RLKH)}
        if len(dtypes) > 1:
            raise TypeError(f"pages and new keys and values must have one dtype, got {', '.join(sorted(dtypes))}")
        return
    check_scales(k_PKZH, v_PKZH, k_scale_PKZ, v_scale_PKZ, sizes, (jnp.int8,))
    check_floats(new_k=new_k_RLKH, new_v=new_v_RLKH)


def check_scales(k_PKZH, v_PKZH, k_scale_PKZ, v_scale_PKZ, sizes: dict[str, int], dtypes) -> None:
    """Of quantised pages."""
    if k_scale_PKZ is None or v_scale_PKZ is None:
        raise ValueError("keys and values are both quantised or neither: give both k_scale and v_scale, or none")
    for name, array in (("k", k_PKZH), ("v", v_PKZH)):
        if array.dtype not in dtypes:
            allowed = " or ".join(", ".join(jnp.dtype(dtype).name for dtype in dtypes).rsplit(", ", 1))
            raise TypeError(f"{name} with scales must be {allowed}, got {array.dtype}")
    for name, array in (("k_scale", k_scale_PKZ), ("v_scale", v_scale_PKZ)):
        check_shape(name, array, "PKZ", sizes)
        if array.dtype != jnp.float32:
            raise TypeError(f"{name} must be float32, got {array.dtype}")


def check_lanes(lanes: int, dtype) -> None:
    """Rows of a request against the bits of a word."""
    if dtype not in (jnp.int32, jnp.uint32):
        raise TypeError(f"words must be int32 or uint32, got {dtype}")
    if lanes > 32:
        raise ValueError(f"{lanes} lanes a request, but a visibility word has 32 bits")


def check_intervals(hide_start_BES, hide_end_BES) -> None:
    """On the device, by `checkify`: intervals lie within the keys' rows, or end with INT32_MAX; none is inverted."""
    hide_start_BES, hide_end_BES = jnp.asarray(hide_start_BES), jnp.asarray(hide_end_BES)
    at, keys = "at [sequence, level, key] ", hide_start_BES.shape[2]
    for bad_BES, what in (
        (hide_start_BES < 0, "hide_start is negative"),
        (hide_start_BES > keys, "hide_start lies behind the last row"),
        ((hide_end_BES > keys) & (hide_end_BES != INT32_MAX), "hide_end lies behind the last row and is not INT32_MAX"),
        (hide_end_BES < hide_start_BES, "hide_end lies before hide_start"),
    ):
        place = jnp.unravel_index(jnp.argmax(bad_BES), bad_BES.shape)
        checkify.check(
            ~bad_BES.any(),
            what + " " + at + "{b}, {e}, {s}: [{start}, {end})",
            b=place[0],
            e=place[1],
            s=place[2],
            start=hide_start_BES[place],
            end=hide_end_BES[place],
        )


def check_pages(pages_RM, length_R, page_size: int, page_count: int) -> None:
    """On the device, by `checkify`: live pages exist, and no KV stream is longer than its table."""
    pages_RM, length_R = jnp.asarray(pages_RM), jnp.asarray(length_R)
    room = pages_RM.shape[1] * page_size
    r = jnp.argmax((length_R > room) | (length_R < 0))
    checkify.check(
        ((length_R >= 0) & (length_R <= room)).all(),
        "length[{r}] = {n} is outside 0 to {room}, the room of its pages",
        r=r,
        n=length_R[r],
        room=jnp.int32(room),
    )
    live_RM = jnp.arange(pages_RM.shape[1]) * page_size < length_R[:, None]
    bad_RM = live_RM & ((pages_RM < 0) | (pages_RM >= page_count))
    r, m = jnp.unravel_index(jnp.argmax(bad_RM), bad_RM.shape)
    checkify.check(
        ~bad_RM.any(),
        "pages[{r}, {m}] = {page} is no page: there are {count}",
        r=r,
        m=m,
        page=pages_RM[r, m],
        count=jnp.int32(page_count),
    )


def check_scalars(scale: float | None, soft_cap: float | None, head: int) -> tuple[float, float | None]:
    scale = head**-0.5 if scale is None else float(scale)
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}")
    if soft_cap is not None and not (math.isfinite(soft_cap) and soft_cap > 0):
        raise ValueError(f"soft_cap must be positive and finite, got {soft_cap}")
    return scale, None if soft_cap is None else float(soft_cap)
