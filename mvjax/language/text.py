"""Transcripts as text: splitting, parsing to the tree, and the rules that only text can break.

The token form of a transcript is the authority; text is its rendering, in which the tags are recognised by their
spelling. So only a response is to be parsed: a prompt may hold the same characters and mean nothing by them.
"""

from __future__ import annotations

import re
from itertools import accumulate, repeat
from operator import contains

import numpy as np

from mvjax.language import tags
from mvjax.language.errors import TranscriptError
from mvjax.language.grammar import NONE
from mvjax.language.scan import MAX_DEPTH, Structure, scan
from mvjax.language.tree import Transcript, build

_TAG = re.compile("|".join(map(re.escape, tags.TAGS)))
_WORD = re.compile(r"[^\S\n]{0,64}\n(?:[^\S\n]{1,64}\Z)?|[^\S\n]?[^\s:]+:?|[^\S\n]|:")
"""A newline with the blanks before it (so CRLF is one newline), and behind it where a tag follows; a word; a blank."""
_ORDINAL = {tag: ordinal for ordinal, tag in enumerate(tags.TAGS)}


def split_text(text: str, prompt_length: int = 0) -> list[str]:
    """Split text into tags, newlines (with blanks beside them that mean nothing), and words with the space before and a
    ":" behind them; their sum is the text.

    The first `prompt_length` characters hold no tags.
    """
    pieces = _WORD.findall(text[:prompt_length])
    done = prompt_length
    for match in _TAG.finditer(text, prompt_length):
        pieces += _WORD.findall(text[done : match.start()])
        pieces.append(match.group())
        done = match.end()
    return pieces + _WORD.findall(text[done:])


def piece_facts(pieces: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, colons and separators of pieces: the arguments that `lay_out` wants.

    A separator is a newline, or blanks beside a tag; other blanks are text, those of a label ("1 :") too.
    """
    codes_T = np.fromiter(map(_ORDINAL.get, pieces, repeat(tags.TEXT)), np.int8, len(pieces))
    colon_T = np.fromiter(map(contains, pieces, repeat(":")), bool, len(pieces))
    separator_T = np.fromiter(map(str.isspace, pieces), bool, len(pieces))
    newline_T = np.fromiter(map(contains, pieces, repeat("\n")), bool, len(pieces))
    tag_T = np.pad(codes_T != tags.TEXT, 1)
    separator_T &= newline_T | tag_T[:-2] | tag_T[2:]
    return codes_T, colon_T, separator_T


def parse_text(
    text: str,
    prompt_length: int = 0,
    *,
    engine_output: bool = False,
    complete: bool = False,
    max_depth: int = MAX_DEPTH,
    record: str = "",
    faults: list[TranscriptError] | None = None,
) -> Transcript:
    """The tree of a transcript of text; `render` gives the text back.

    Besides the grammar, text must keep each tag on a line of its own and number its labels: 1, 2, ... and 1.1, 1.2, ...
    inside path 1 (not so in an engine's output, where the model chooses the labels).

    Args:
        text: the prompt and the response.
        prompt_length: characters of the prompt, which is not scanned.
        engine_output, complete, max_depth, record: as for `lay_out`.
        faults: a list to collect all faults in; then nothing is raised and the tree is the best that can be made.

    Raises:
        TranscriptError: the first fault, by character.
    """
    n_prompt = len(split_text(text[:prompt_length], prompt_length))
    pieces = split_text(text, prompt_length)
    offsets = list(accumulate(map(len, pieces), initial=0))
    codes_T, colon_T, separator_T = piece_facts(pieces)
    found: list[TranscriptError] = []
    structure = scan(
        codes_T,
        colon_T,
        n_prompt,
        separator_T=separator_T,
        engine_output=engine_output,
        complete=complete,
        max_depth=max_depth,
        faults=found,
    )
    if not engine_output:
        found += _line_faults(structure, pieces, {fault.index for fault in found})
        found += _label_faults(structure, pieces)
    found = [
        TranscriptError(offsets[fault.index], fault.found, fault.expected, record, "character")
        for fault in sorted(found, key=lambda fault: fault.index)
    ]
    if faults is not None:
        faults += found
    elif found:
        raise found[0]
    return build(structure, pieces, n_prompt, "".join, lambda *span: _label(pieces, *span), offsets.__getitem__)


def _label(pieces: list[str], start: int, colon: int) -> str:
    return "".join(pieces[start + 1 : colon + 1]).partition(":")[0].strip()


def _line_faults(structure: Structure, pieces: list[str], known: set[int]) -> list[TranscriptError]:
    """Tags that share their line with something else."""
    faults = []
    for index, code, _ in structure.events:
        before, after = index - 1, index + 1
        while before >= 0 and pieces[before].isspace() and "\n" not in pieces[before]:
            before -= 1
        while after < len(pieces) and pieces[after].isspace() and "\n" not in pieces[after]:
            after += 1
        if before >= 0 and "\n" not in pieces[before]:
            faults.append(TranscriptError(index, f"{tags.TAGS[code]} in the middle of a line", "a newline before it"))
        # A tag that follows at once is itself reported as in the middle of a line.
        if after < len(pieces) and "\n" not in pieces[after] and pieces[after] not in _ORDINAL and after not in known:
            faults.append(TranscriptError(after, f"text on the line of {tags.TAGS[code]}", "a newline after the tag"))
    return faults


def _label_faults(structure: Structure, pieces: list[str]) -> list[TranscriptError]:
    """Outlines and paths whose label is not their number."""
    numbered = {
        span.open: (k, span)
        for block in structure.blocks
        for spans in (block.outlines, block.paths)
        for k, span in enumerate(spans, 1)
    }
    faults, prefixes = [], {0: ""}
    for index, code, block in structure.events:
        if block is None or code not in (tags.OUTLINE_OPEN, tags.PATH_OPEN):
            continue
        if block.level not in prefixes:  # a misplaced block, in no path
            continue
        k, span = numbered[index]
        wanted = f"{prefixes[block.level]}{k}"
        if code == tags.PATH_OPEN:
            prefixes[block.level + 1] = f"{wanted}."
        if span.colon != NONE and (found := _label(pieces, index, span.colon)) != wanted:
            faults.append(TranscriptError(index, f"{tags.TAGS[code]} with the label {found!r}", repr(wanted)))
    return faults
