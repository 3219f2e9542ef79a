"""Transcripts as an engine tells of them: branch by branch, in any order of execution, in stays of any length."""

from __future__ import annotations

import random

import numpy as np
from plain_vocabulary import PlainVocabulary
from random_trees import TreeConfig, random_transcript

from mvjax.engine import Prompt, Result, StreamRecord, Timings, TokenUpdate
from mvjax.engine import state as st
from mvjax.engine.result import make_result
from mvjax.language import lay_out, tags

TEXTS = (
    *("\n", ":", ".", *"0123456789", ":\n", "1:", "1 ", "2.", "a", " b", " ", "\t", "\r"),
    *(" alpha", " größer", " β", "日本", " 🙂", "nd", "nd.", " a", "e"),
)
VOCABULARY = PlainVocabulary([*(text.encode() for text in TEXTS), *(bytes([n]) for n in range(128, 256))])
WORDS = (" alpha", " größer", " β", "日本", " 🙂", "nd", "nd.", " a", "e")


def random_tokens(rng: random.Random, config: TreeConfig) -> list[int]:
    """A transcript as ids; many of its characters are spread over several tokens, some are never completed."""
    tokens: list[int] = []
    for text in random_transcript(rng.randint, config):
        if text.startswith(" ") and text.strip().isalpha():
            text = rng.choice(WORDS)
            if not text.isascii() and rng.random() < 0.8:
                data = text.encode()[: None if rng.random() < 0.8 else -1]
                tokens += [VOCABULARY.id_of(bytes([byte])) for byte in data if byte >= 128]
                continue
        tokens += VOCABULARY.spelt(text)
    return tokens


class Told:
    """A transcript taken apart into branches, which are made in a random order, and told again."""

    def __init__(self, tokens: list[int], rng: random.Random, rows: int):
        self.tokens, self.rng = tokens, rng
        own: list[list[int]] = [[]]
        """Places of the tokens of each segment, in the order of the transcript."""
        forks: dict[int, list[int]] = {}
        """Segments that begin behind a place."""
        parent, stack = [-1], [(0, -1)]
        for place, token in enumerate(tokens):
            if token == tags.PARALLEL_OPEN:
                stack.append((stack[-1][0], place))
            elif token == tags.PATH_OPEN:
                while stack[-1][1] < 0:
                    stack.pop()
                holder = stack[-1][0]
                forks.setdefault(own[holder][-1], []).append(len(own))
                parent.append(holder)
                stack.append((len(own), -1))
                own.append([])
            elif token == tags.CONCLUSION_OPEN:
                while stack[-1][1] < 0:
                    stack.pop()
            own[stack[-1][0]].append(place)
            if token == tags.PARALLEL_CLOSE:
                stack.pop()
        self.segment_parent = parent
        self._run(own, forks, rows)

    def _run(self, own: list[list[int]], forks: dict[int, list[int]], rows: int) -> None:
        """The order in which tokens are made: [(number, place)], with rows for so many branches at a time."""
        rng, number, counted = self.rng, {0: 0}, 1
        self.parents = {0: -1}
        at = dict.fromkeys(range(len(own)), 0)
        waits_for: dict[int, int] = {}
        first_path: dict[int, int] = {}
        """Of other paths: none begins before it does."""
        running, queue = [0], []
        self.made: list[tuple[int, int]] = []
        self.forked: list[tuple[int, int]] = []
        """Of each of them: number of path 1 and count of the paths, where it forks."""
        outlines = [0] * len(own)
        while running:
            segment = rng.choice([one for one in running if at[first_path.get(one, one)] or one not in first_path])
            place = own[segment][at[segment]]
            at[segment] += 1
            self.made.append((number[segment], place))
            if self.tokens[place] == tags.PARALLEL_OPEN:
                outlines[segment] = 0
            outlines[segment] += self.tokens[place] == tags.OUTLINE_CLOSE
            self.forked.append((counted, outlines[segment]) if place in forks else (0, 0))
            if place in forks:
                first_path |= dict.fromkeys(forks[place][1:], forks[place][0])
                for path, child in enumerate(forks[place]):
                    number[child] = counted + path
                    self.parents[number[child]] = number[segment]
                counted += outlines[segment]  # Those that are left out have numbers, too.
                waits_for[segment] = len(forks[place])
                running.remove(segment)
                queue = [*forks[place], *queue]
            elif at[segment] == len(own[segment]):
                running.remove(segment)
                holder = self.segment_parent[segment]
                if holder >= 0:
                    waits_for[holder] -= 1
                    if not waits_for[holder]:
                        running.append(holder)
            while queue and len(running) < rows:
                running.append(queue.pop(0))

    def stays(self) -> list[list[TokenUpdate]]:
        """All of it, in stays of random lengths."""
        found, at = [], 0
        while at < len(self.made):
            length = self.rng.choice([1, 2, 5, 20, len(self.made)])
            by_number: dict[int, list[int]] = {}
            for number, place in self.made[at : at + length]:
                by_number.setdefault(number, []).append(self.tokens[place])
            found.append([TokenUpdate(7, n, self.parents[n], its) for n, its in by_number.items()])
            at += length
        return found

    def positions(self) -> list[int]:
        """Of each token of the transcript, behind a prompt of one token."""
        codes_T = VOCABULARY.tables().codes[self.tokens]
        colon_T = VOCABULARY.tables().colon[self.tokens]
        layout = lay_out(np.append(tags.TEXT, codes_T), np.append(False, colon_T), 1, engine_output=True, complete=True)
        return layout.position[1:].tolist()

    def result(self, made: int | None = None, reason: str = "stop") -> Result:
        """What the engine's result would be."""
        steps, forked = self.made[:made], np.array(self.forked[:made], np.int32).reshape(-1, 2)
        places = [place for _, place in steps]
        stream = StreamRecord(
            token=np.array(self.tokens, np.int32)[places],
            position=np.array(self.positions(), np.int32)[places],
            origin=np.array([number for number, _ in steps], np.int32),
            written=np.zeros(len(steps), bool),
            cut=np.zeros(len(steps), np.int32),
            fork=forked[:, 0],
            paths=forked[:, 1],
        )
        counts = st.Counts(*[np.int32(0)] * len(st.Counts._fields))
        return make_result(7, Prompt([30]), stream, reason, counts, Timings(0.0, 0.0, 0.0, 0.0, 0.0), VOCABULARY)
