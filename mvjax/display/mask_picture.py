"""A picture of a transcript's attention mask: which token sees which, coloured by segment."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

    from mvjax.language import Layout

SIDE = 840
"""Pixels of the mask's side at most; a longer transcript is sampled."""
LEFT, TOP, BOTTOM, LEGEND, STRIP = 96, 92, 24, 300, 12
"""Pixels around the mask: row numbers, title and column numbers, below, legend, strips of segments."""
MAX_LEGEND = 28
"""Segments that the legend names."""

PAPER, INK, FAINT = (255, 255, 255), (28, 30, 34), (120, 124, 130)
HIDDEN, LATER, ROOT = (38, 41, 48), (240, 241, 243), (134, 150, 172)


def segment_colours(n_segments: int) -> np.ndarray:
    """uint8[n_segments, 3]: grey blue for the root, then hues as far apart as they go."""
    hues = (k * 0.618034 % 1.0 for k in range(n_segments - 1))
    colours = [colorsys.hls_to_rgb(hue, 0.62 if k % 2 else 0.52, 0.72) for k, hue in enumerate(hues)]
    return np.array([ROOT, *(tuple(round(255 * part) for part in colour) for colour in colours)], np.uint8)


def mask_pixels(layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """The mask as uint8[P, P, 3], rows see columns, and the token that each pixel shows, int[P].

    A token has several pixels where there is room; where there are more tokens than pixels, every n-th is shown, so
    memory does not grow with the square of the length.
    """
    n_tokens = len(layout.segment)
    n_pixels = SIDE // n_tokens * n_tokens if n_tokens <= SIDE else SIDE
    token_P = np.arange(n_pixels) * n_tokens // n_pixels
    rows_P1, keys_1P = token_P[:, None], token_P[None, :]
    hidden_PP = np.zeros((n_pixels, n_pixels), bool)
    for start_T, end_T in zip(layout.hide_start, layout.hide_end):
        hidden_PP |= (rows_P1 >= start_T[keys_1P]) & (rows_P1 < end_T[keys_1P])
    colours_P3 = segment_colours(len(layout.parent))[layout.segment[token_P]]
    pixels_PP3 = np.broadcast_to(colours_P3[None], (n_pixels, n_pixels, 3)).copy()
    pixels_PP3[hidden_PP] = HIDDEN
    pixels_PP3[rows_P1 < keys_1P] = LATER
    return pixels_PP3, token_P


def draw_mask(layout: Layout, title: str, names: Sequence[str]) -> Image.Image:
    """The whole picture; `names` are the segments' names for the legend."""
    from PIL import Image, ImageDraw, ImageFont

    pixels_PP3, token_P = mask_pixels(layout)
    side, n_tokens = len(token_P), len(layout.segment)
    shown = min(len(names), MAX_LEGEND)
    height = max(TOP + side + BOTTOM, TOP + 22 * (shown + 5))
    picture = Image.new("RGB", (LEFT + side + LEGEND, height), PAPER)
    draw = ImageDraw.Draw(picture)
    big, small = ImageFont.load_default(18), ImageFont.load_default(13)
    picture.paste(Image.fromarray(pixels_PP3), (LEFT, TOP))

    # The segment of each row and column, along the sides.
    colours = segment_colours(len(layout.parent))
    strip = Image.fromarray(np.broadcast_to(colours[layout.segment[token_P]][None], (STRIP, side, 3)).copy())
    picture.paste(strip, (LEFT, TOP - STRIP - 2))
    picture.paste(strip.transpose(Image.Transpose.TRANSPOSE), (LEFT - STRIP - 2, TOP))
    draw.rectangle((LEFT - 1, TOP - 1, LEFT + side, TOP + side), outline=FAINT)

    draw.text((16, 12), title, fill=INK, font=big)
    draw.text((LEFT, 42), "columns: token that is seen;  rows: token that looks", fill=FAINT, font=small)
    for token in range(0, n_tokens, tick_step(n_tokens)):
        at = int(np.searchsorted(token_P, token))
        draw.text((LEFT + at, TOP - STRIP - 20), str(token), fill=INK, font=small)
        draw.text((LEFT - STRIP - 8, TOP + at), str(token), fill=INK, font=small, anchor="ra")

    x, y = LEFT + side + 24, TOP
    sampled = f"1 pixel = {n_tokens / side:.1f} tokens" if n_tokens > side else f"{side // n_tokens} pixels a token"
    draw.text((x, y - 44), "colour: segment of the token that is seen", fill=FAINT, font=small)
    draw.text((x, y - 24), sampled, fill=FAINT, font=small)
    rows = [(tuple(map(int, colours[segment])), names[segment]) for segment in range(shown)]
    if shown < len(names):
        rows.append((PAPER, f"... and {len(names) - shown} more"))
    rows += [(HIDDEN, "hidden: in a sibling path"), (LATER, "hidden: comes later")]
    for colour, name in rows:
        draw.rectangle((x, y + 2, x + 16, y + 16), fill=colour, outline=FAINT if colour != PAPER else PAPER)
        draw.text((x + 24, y + 1), name[:38], fill=INK, font=small)
        y += 22
    return picture


def tick_step(n_tokens: int) -> int:
    """A round number of tokens between two ticks, about eight of them."""
    step = 1
    while n_tokens / step > 10:  # 1, 2, 5, 10, 20, 50, ...
        step = step * 5 // 2 if str(step)[0] == "2" else step * 2
    return step
