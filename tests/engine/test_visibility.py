"""Visibility words against their definition, slot by slot."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from mvjax.engine import decode_loop
from mvjax.engine.state import NO_ANCESTOR, NO_SEGMENT


@pytest.mark.parametrize("slots", [5, 8, 30, 37])
def test_a_word_has_the_bits_of_the_lanes_that_see_its_slot(slots, monkeypatch):
    """In blocks of 8 slots up to the end of the longest stream that runs, whatever finished requests hold."""
    monkeypatch.setattr(decode_loop, "SLOTS_AT_ONCE", 8)
    rng = np.random.default_rng(slots)
    call = jax.jit(
        lambda active, lineage, *rest: decode_loop.visibility(SimpleNamespace(active=active, lineage=lineage), *rest)
    )
    for most in (1, slots // 2, slots - 4):
        active_RL = rng.random((3, 4)) < 0.6
        active_RL[1] = False
        lineage_RLD = rng.integers(0, 6, (3, 4, 3)).astype(np.int32)
        lineage_RLD[rng.random(lineage_RLD.shape) < 0.3] = NO_ANCESTOR
        used_R = np.array([max(most - 3, 0), slots, most], np.int32)
        end_R = used_R + active_RL.sum(1)
        segment_RS = rng.integers(0, 6, (3, slots)).astype(np.int32)
        segment_RS[np.arange(slots) >= end_R[:, None]] = NO_SEGMENT
        wanted_RS = np.zeros((3, slots), np.uint32)
        for r, s in np.ndindex(3, slots):
            for lane, branch in enumerate(np.flatnonzero(active_RL[r])):
                wanted_RS[r, s] |= np.uint32(segment_RS[r, s] in lineage_RLD[r, branch]) << np.uint32(lane)
        np.testing.assert_array_equal(call(active_RL, lineage_RLD, segment_RS, used_R), wanted_RS)
