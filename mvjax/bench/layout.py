"""Time to lay out a long transcript: segments, positions, hidden intervals and the loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from mvjax.bench.config import LayoutBench
from mvjax.bench.report import Bar, Report
from mvjax.bench.timing import Spread, alternate
from mvjax.language import tags
from mvjax.language.layout import lay_out

BAR_MS = 50.0
SEPARATOR, COLON, WORD = -2, -3, -1
"""Marks of text tokens while a transcript is put together."""
SHAPES = {"short paths": (4, 8, 0), "long paths": (8, 256, 0), "nested twice": (2, 8, 2)}
"""(paths of a block, words of a path, levels of blocks inside)."""


def measure(config: LayoutBench, report: Report, say: Callable[[str], None]) -> None:
    """Fill the report: a row per shape of transcript, the shapes in turn."""
    transcripts = {name: transcript(config.tokens, *shape) for name, shape in SHAPES.items()}

    def side(marks_T):
        codes_T = np.maximum(marks_T, tags.TEXT).astype(np.int8)
        colon_T, separator_T = marks_T == COLON, marks_T == SEPARATOR

        def run():
            start = time.perf_counter()
            layout = lay_out(codes_T, colon_T, separator_T=separator_T, complete=True)
            spent = time.perf_counter() - start
            return spent, layout

        return run

    results = alternate({name: side(marks_T) for name, marks_T in transcripts.items()}, config.repeat, say=say)
    for name, runs in results.items():
        layout = runs[0][1]
        spent = Spread.of([1e3 * value for value, _ in runs])
        report.rows.append(
            {
                "transcript": name,
                "tokens": len(layout.segment),
                "segments": len(layout.parent),
                "depth": layout.depth,
                "ms": spent,
            }
        )
        report.bars.append(Bar(f"ms to lay out {len(layout.segment)} tokens, {name}", spent, BAR_MS))


def transcript(tokens: int, paths: int, words: int, levels: int) -> np.ndarray:
    """Marks of a whole transcript of at least `tokens` tokens: blocks one after the other, text between them."""
    block = [*block_marks(paths, words, levels), WORD, WORD]
    return np.array(block * -(-tokens // len(block)), np.int64)


def block_marks(paths: int, words: int, levels: int) -> Iterator[int]:
    """Marks of one block whose paths each hold one block of the next level."""
    yield from (tags.PARALLEL_OPEN, SEPARATOR, tags.GOAL_OPEN, SEPARATOR)
    for _ in range(paths):
        yield from (tags.OUTLINE_OPEN, SEPARATOR, WORD, COLON, WORD, SEPARATOR, tags.OUTLINE_CLOSE, SEPARATOR)
    yield from (tags.GOAL_CLOSE, SEPARATOR)
    for _ in range(paths):
        yield from (tags.PATH_OPEN, SEPARATOR, WORD, COLON, *[WORD] * words)
        if levels:
            yield from block_marks(paths, words, levels - 1)
        yield from (SEPARATOR, tags.PATH_CLOSE, SEPARATOR)
    yield from (tags.CONCLUSION_OPEN, SEPARATOR, WORD, WORD, SEPARATOR, tags.CONCLUSION_CLOSE, SEPARATOR)
    yield from (tags.PARALLEL_CLOSE, SEPARATOR)
