"""The picture of the mask: its pixels are the mask, and its size does not grow with the transcript."""

import numpy as np
import pytest
from naive_layout import visible
from random_trees import token_facts

from mvjax.display.mask_picture import HIDDEN, LATER, mask_pixels, tick_step
from mvjax.language import lay_out, split_text

TOKENS = split_text(
    "<Think>\nLet's think in parallel.\n"
    "<Parallel>\n<Goal>\n<Outline>\n1: this\n</Outline>\n<Outline>\n2: that\n</Outline>\n</Goal>\n"
    "<Path>\n1: so\n</Path>\n<Path>\n2: or [bold]\n</Path>\n<Conclusion>\nboth\n</Conclusion>\n</Parallel>\n"
    "</Think>\nDone.\n"
)


def test_pixels_are_the_mask():
    codes_T, colon_T, _ = token_facts(TOKENS)
    layout = lay_out(codes_T, colon_T)
    pixels_PP3, token_P = mask_pixels(layout)
    shown_PP = ~(pixels_PP3 == HIDDEN).all(-1) & ~(pixels_PP3 == LATER).all(-1)
    np.testing.assert_array_equal(shown_PP, visible(TOKENS)[np.ix_(token_P, token_P)])
    assert set(token_P) == set(range(len(TOKENS)))


def test_a_long_transcript_is_sampled():
    codes_T = np.full(100_000, -1)
    pixels_PP3, token_P = mask_pixels(lay_out(codes_T, codes_T > 0))
    assert pixels_PP3.shape[0] == len(token_P) < 1000
    assert token_P[-1] > 99_000


@pytest.mark.parametrize(("n_tokens", "step"), [(1, 1), (10, 1), (11, 2), (56, 10), (953, 100), (32768, 5000)])
def test_tick_step(n_tokens, step):
    assert tick_step(n_tokens) == step
