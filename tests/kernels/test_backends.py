"""Which backend serves a call: by platform, by what each can do, and what a user is told."""

import logging
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import pytest
from mvjax_kernels import backends
from mvjax_kernels.backends import Pages, pick, refusal
from mvjax_kernels.xla import attention as xla_attention


@pytest.fixture
def traced_for(monkeypatch):
    """Calls are traced for a device of a platform, with or without jax-triton."""

    def change(platform, capability=None, triton=True):
        device = Mock(spec=jax.Device, platform=platform, compute_capability=capability)
        monkeypatch.setattr(backends, "device", lambda: device)
        monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: name if triton else None)
        backends._say.cache_clear()

    return change


@pytest.mark.parametrize(
    ("platform", "head", "triton", "chosen"),
    [
        ("cpu", 64, True, "xla"),
        ("tpu", 64, True, "tpu"),
        ("tpu", 128, True, "tpu"),
        ("tpu", 256, True, "tpu"),
        ("tpu", 80, True, "xla"),
        ("cuda", 128, True, "gpu"),
        ("gpu", 128, True, "gpu"),
        ("gpu", 96, True, "xla"),
        ("gpu", 128, False, "xla"),
        ("rocm", 128, True, "xla"),
    ],
)
def test_auto_takes_what_serves_the_platform(traced_for, platform, head, triton, chosen):
    traced_for(platform, triton=triton)
    assert pick("auto", head) == chosen
    assert pick("xla", head) == "xla"


def test_auto_says_once_why_a_kernel_is_not_used(traced_for, caplog):
    traced_for("tpu")
    with caplog.at_level(logging.INFO, "mvjax_kernels"):
        for _ in range(2):
            pick("auto", 80)
        pick("auto", 64)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", 'attention backend: "xla", for "tpu" cannot serve: it serves heads of 64, 128, 256, not 80'),
        ("INFO", 'attention backend: "tpu"'),
    ]


@pytest.mark.parametrize(
    ("backend", "capability", "size", "dtype", "reason"),
    [
        ("gpu", None, 16, jnp.bfloat16, None),
        ("gpu", None, 24, jnp.bfloat16, "it reads pages of a multiple of 16 slots, not 24"),
        ("gpu", "8.9", 64, jnp.float8_e4m3fn, None),
        ("gpu", "9.0", 64, jnp.float8_e4m3fn, None),
        ("gpu", None, 64, jnp.float8_e4m3fn, None),
        ("gpu", "8.0", 64, jnp.float8_e4m3fn, "this GPU has no float8_e4m3fn"),
        ("gpu", "8.0", 64, jnp.float8_e5m2, None),
        ("gpu", None, 64, jnp.float16, None),
        ("tpu_interpret", None, 128, jnp.float16, "no TPU multiplies float16"),
        ("tpu_interpret", None, 256, jnp.int8, None),
        ("tpu_interpret", None, 16, jnp.bfloat16, "it reads pages of a multiple of 128 slots, not 16"),
        ("tpu_interpret", None, None, jnp.bfloat16, "it decodes over pages only"),
        ("gpu", None, None, jnp.bfloat16, "it decodes over pages only"),
        ("xla", None, 3, jnp.float16, None),
        ("tpu", None, 128, jnp.bfloat16, "it needs a TPU, the program is traced for 'gpu'"),
    ],
)
def test_pages_that_a_backend_cannot_read_are_refused(traced_for, backend, capability, size, dtype, reason):
    traced_for("gpu", capability)
    found = refusal(backend, 64, Pages(size, jnp.dtype(dtype)))
    assert found is None if reason is None else found.startswith(reason)


@pytest.mark.parametrize(
    ("group", "length", "keys", "chunks", "wanted"),
    [
        (1, 4096, 4096, 1, (128, 128)),
        (4, 4096, 4096, 1, (128, 128)),
        (5, 4096, 4096, 1, (64, 256)),
        (8, 4096, 4096, 1, (64, 256)),
        (9, 4096, 4096, 1, (32, 256)),
        (1, 20, 50, 1, (24, 56)),  # no more than there is, in whole eights
        (1, 1, 4096, 1, (8, 128)),
        (1, 4096, 4096, 32, (128, 128)),
        (1, 480, 4096, 10, (16, 128)),  # chunks of 48 hold whole tiles
    ],
)
def test_tiles_of_xla_go_by_the_group_and_no_chunk_is_cut(group, length, keys, chunks, wanted):
    rows, block = xla_attention.tile_shape(group, length, keys, chunks)
    assert (rows, block) == wanted
    assert chunks == 1 or (length // chunks) % rows == 0
