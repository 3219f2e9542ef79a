"""The branches of an answer while they grow: what stands where, as text, and what happens in them.

Each branch (segment) reads its own tokens, in whatever order the branches are run: the text of every run of tokens, the
blocks that it opens, and rotary positions (language, sections 3 and 5). `Branches.runs` gives the runs in the order of
the transcript, as far as they are final.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from mvjax.engine import LogProbs, Result, TokenUpdate
from mvjax.language import tags
from mvjax.language.grammar import LEADS_TO, RETURN, GrammarState

S = GrammarState
ROOT = 0
THINK_TAGS = (tags.THINK_OPEN, tags.THINK_CLOSE)
Kind = Literal["content", "reasoning", "mark"]
"""Text outside Think and blocks; the rest; the Think tags with their separators."""


class TokenLogProb(NamedTuple):
    """Of a sampled token, among what the grammar left open."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """The model's most probable tokens; -inf: barred here."""


class BranchEvent(NamedTuple):
    """What happened in a branch."""

    address: str
    """"" is the root, "1.2" path 2 of block 1 of the root, "1.2/1.3" path 3 of block 1 of that path. Blocks are counted
    in their segment, abandoned ones too."""
    event: Literal["fork", "start", "text", "end", "reduce"]
    """fork: the branch waits for the paths of a block; start, end: of a path; reduce: all paths have ended, and the
    branch goes on with the conclusion."""
    text: str
    """New text of the branch, tags included; only "text" has any."""
    position: int
    """Rotary position: of the last token so far; of the first (start) or of `<Conclusion>` (reduce)."""


@dataclass(slots=True)
class Run:
    """Tokens of one kind that follow one another in a segment."""

    kind: Kind
    text: str
    logprobs: list[tuple[int, TokenLogProb]] = field(default_factory=list)
    """Sampled tokens, each with the place in `text` where it ends."""
    address: str = ""
    """Of its segment."""


@dataclass(slots=True)
class BlockPaths:
    """The paths of a block, in the place where it forks."""

    ordinal: int
    """Of the block in its segment, from 1."""
    count: int
    """Paths that there will be, unless some are left out."""
    first: int
    """Number of path 1 in the request."""
    paths: dict[int, Segment] = field(default_factory=dict)
    """By number in the block, from 1: those that have begun."""
    reduced: bool = False
    """The conclusion has begun."""


class Segment:
    """A branch and what it has made.

    Attributes:
        address: see `BranchEvent`; None: the block that it stands in has not been read yet.
        state, body: where its next token stands, and the body that blocks return to.
        items: runs, and blocks where they fork, in order.
        pending: updates that have not been read.
        waiting: children that have not been put into their blocks, by number in the request.
        fork: the last block that it has forked for.
        position: of its last token.
        tokens, blocks, outlines: counts; outlines are those of the current block.
        abandoned: blocks without a path.
        last: tag of the last token; TEXT.
        ended: no token comes any more.
        text: all of its text, in pieces.
    """

    def __init__(self, number: int, parent: Segment | None):
        self.number, self.parent = number, parent
        self.address: str | None = "" if parent is None else None
        self.state = self.body = S.BODY if parent is None else S.PATH
        self.items: list[Run | BlockPaths] = []
        self.pending: list[tuple[list[int], LogProbs | None]] = []
        self.waiting: dict[int, Segment] = {}
        self.fork: BlockPaths | None = None
        self.position = self.tokens = self.blocks = self.outlines = self.abandoned = 0
        self.last = tags.TEXT
        self.ended = False
        self.text: list[str] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._told = 0
        """Pieces of the text that events have told."""
        self._run: Run | None = None
        """What new text of the same kind is added to."""
        self._kind: Kind = "content"
        """Of the last bytes."""

    @property
    def kind(self) -> Kind:
        """Of text that comes now."""
        return "content" if self.state == S.BODY else "reasoning"

    def decode(self, data: bytes, kind: Kind, final: bool = False) -> Run:
        """Add text; the run that it stands in. A character may end with later bytes, unless these are final."""
        if self._run is None or self._run.kind != kind:
            self._run, self._kind = Run(kind, "", address=self.address or ""), kind
            self.items.append(self._run)
        text = self._decoder.decode(data, final)
        if text:
            self._run.text += text
            self.text.append(text)
        return self._run

    def close_run(self) -> None:
        """What comes next is another run."""
        self._run = None

    def flush(self) -> None:
        """A tag comes or nothing: bytes that have waited for more are text, of the kind that they began as."""
        if self._decoder.getstate()[0]:
            self.decode(b"", self._kind, final=True)

    def news(self) -> Iterator[BranchEvent]:
        """The text since the last call as an event."""
        text = "".join(self.text[self._told :])
        self._told = len(self.text)
        if text:
            yield BranchEvent(self.address or "", "text", text, self.position)


class Branches:
    """Takes updates in, gives events and runs out."""

    def __init__(self, tokenizer: Any, vocabulary: Any, last_position: int, *, logprobs: bool = False):
        """
        Args:
            vocabulary: the `VocabularyTables`.
            last_position: of the prompt.
            logprobs: whether runs carry them.
        """
        self._tokenizer, self._logprobs = tokenizer, logprobs
        self._codes, self._separator = vocabulary.codes, vocabulary.separator_id
        self.root = Segment(ROOT, None)
        self.root.position = last_position
        self.segments = {ROOT: self.root}
        self._cursor: list[tuple[Segment, int, int]] = [(self.root, 0, 0)]
        """How far the transcript has been given: segments, each with its next item, and the path of that item."""

    def add(self, updates: Sequence[TokenUpdate]) -> list[BranchEvent]:
        """Read new tokens; what happened, parents before children."""
        touched = []
        for update in updates:
            segment = self.segments.get(update.segment)
            if segment is None:
                parent = self.segments[update.parent]
                segment = self.segments[update.segment] = parent.waiting[update.segment] = Segment(
                    update.segment, parent
                )
            segment.pending.append((update.tokens, update.logprobs if self._logprobs else None))
            touched.append(segment)
        events: list[BranchEvent] = []
        for segment in touched:
            self._read(segment, events)
        return events

    def finish(self) -> list[BranchEvent]:
        """No more tokens come: incomplete characters at the ends of segments are text, too."""
        events: list[BranchEvent] = []
        for segment in self.segments.values():
            segment.close_run()
            segment.flush()
            segment.ended = True
            events += segment.news()
        return events

    def runs(self) -> Iterator[Run]:
        """The runs that follow those given before, in the order of the transcript, up to the end of the first segment
        that goes on. Paths that have not begun are waited for until their block is reduced."""
        stack = self._cursor
        while stack:
            segment, at, path = stack.pop()
            if at == len(segment.items):
                if not segment.ended:
                    stack.append((segment, at, path))
                    return
                continue
            item = segment.items[at]
            if isinstance(item, Run):
                stack.append((segment, at + 1, 0))
                yield item
                continue
            left_out, path = item.reduced or segment.ended, path + 1
            while left_out and path <= item.count and path not in item.paths:
                path += 1
            if path > item.count:
                stack.append((segment, at + 1, 0))
            elif path in item.paths:
                stack += [(segment, at, path), (item.paths[path], 0, 0)]
            else:
                stack.append((segment, at, path - 1))
                return

    def in_order(self) -> Iterator[Segment]:
        """All segments in the order of the transcript."""
        stack = [self.root]
        while stack:
            segment = stack.pop()
            yield segment
            blocks = [item for item in segment.items if isinstance(item, BlockPaths)]
            stack += [block.paths[path] for block in reversed(blocks) for path in sorted(block.paths, reverse=True)]

    def _read(self, segment: Segment, events: list[BranchEvent]) -> None:
        """Read what a segment has pending; where it concludes a block, the block's paths first."""
        if segment.address is None and segment.parent is not None:
            self._adopt(segment.parent, events)
        pending, segment.pending = segment.pending, []
        segment.close_run()  # It may have been given.
        for tokens, logprobs in pending:
            codes = self._codes[np.asarray(tokens)].tolist()
            at = 0
            while at < len(tokens):
                if codes[at] != tags.TEXT:
                    self._take_tag(segment, tokens[at], codes[at], logprobs and logprobs.take([at]), events)
                    at += 1
                    continue
                end = at + 1
                if segment.last == tags.TEXT or tokens[at] != self._separator:
                    while end < len(tokens) and codes[end] == tags.TEXT:
                        end += 1
                self._take_text(segment, tokens[at:end], logprobs and logprobs.take(slice(at, end)), events)
                at = end
        events += segment.news()

    def _take_text(self, segment: Segment, tokens: list[int], logprobs: LogProbs | None, events: list[BranchEvent]):
        """Tokens without tags. A separator behind a tag comes alone: it belongs to the tag."""
        last, kind = segment.last, segment.kind
        if last != tags.TEXT and tokens == [self._separator]:
            if last in THINK_TAGS:
                kind = "mark"
            elif last == tags.PARALLEL_CLOSE:
                kind = "reasoning"
        pieces = [self._tokenizer.token_bytes(token) for token in tokens]
        if segment.number == ROOT and not segment.tokens and not self._tokenizer.decode(tokens[:1]).startswith(" "):
            pieces[0] = pieces[0].removeprefix(b" ")  # Some vocabularies begin every text with one.
        segment.last = tags.TEXT
        segment.tokens += len(tokens)
        segment.position += len(tokens)
        self._decode(segment, kind, tokens, pieces, logprobs)
        if last == tags.PATH_CLOSE and tokens == [self._separator]:
            segment.ended = True
            events += segment.news()
            events.append(BranchEvent(segment.address or "", "end", "", segment.position))

    def _decode(
        self, segment: Segment, kind: Kind, tokens: list[int], pieces: list[bytes], logprobs: LogProbs | None
    ) -> None:
        """Add tokens to a segment's text, with log-probabilities where they are wanted and the model made them."""
        if logprobs is None:
            segment.decode(b"".join(pieces), kind)
            return
        for at, (token, piece) in enumerate(zip(tokens, pieces)):
            run = segment.decode(piece, kind)
            if not np.isnan(logprobs.token[at]):
                top = tuple(zip(logprobs.top_id[at].tolist(), logprobs.top[at].tolist()))
                run.logprobs.append((len(run.text), TokenLogProb(token, float(logprobs.token[at]), top)))

    def _take_tag(
        self, segment: Segment, token: int, code: int, logprobs: LogProbs | None, events: list[BranchEvent]
    ) -> None:
        if code == tags.CONCLUSION_OPEN:
            self._reduce(segment, events)
        segment.flush()
        if code == tags.PARALLEL_OPEN:
            segment.blocks += 1
            segment.outlines = 0
        elif code == tags.OUTLINE_CLOSE:
            segment.outlines += 1
        elif code == tags.PARALLEL_CLOSE:
            segment.abandoned += segment.state != S.CONCLUDED
        elif code in THINK_TAGS:
            segment.body = S.THINK if code == tags.THINK_OPEN else S.BODY
        state = LEADS_TO[code]
        segment.state = segment.body if state == RETURN else GrammarState(state)
        segment.last = code
        segment.tokens += 1
        segment.position += 1
        kind: Kind = "mark" if code in THINK_TAGS else "reasoning"
        self._decode(segment, kind, [token], [self._tokenizer.token_bytes(token)], logprobs)

    def _adopt(self, parent: Segment, events: list[BranchEvent]) -> None:
        """Put children that have begun into the block that their parent waits at."""
        block = parent.fork
        if block is None or block.ordinal != parent.blocks:
            block = parent.fork = BlockPaths(parent.blocks, parent.outlines, min(parent.waiting))
            parent.close_run()
            parent.items.append(block)
            events += parent.news()
            events.append(BranchEvent(parent.address or "", "fork", "", parent.position))
        for number in sorted(parent.waiting):
            path = number - block.first + 1
            if path <= block.count:
                child = block.paths[path] = parent.waiting.pop(number)
                child.address = f"{parent.address}/" * bool(parent.address) + f"{block.ordinal}.{path}"
                child.position = parent.position
                events.append(BranchEvent(child.address, "start", "", parent.position + 1))

    def _reduce(self, parent: Segment, events: list[BranchEvent]) -> None:
        """The block that a segment waits at is complete: its paths are read before the conclusion is."""
        if parent.waiting:
            self._adopt(parent, events)
        block = parent.fork
        assert block is not None
        for child in block.paths.values():
            if child.pending:
                self._read(child, events)
        block.reduced = True
        events += parent.news()
        parent.position = max(child.position for child in block.paths.values())
        events.append(BranchEvent(parent.address or "", "reduce", "", parent.position + 1))


def updates_of(result: Result, known: Mapping[int, int]) -> list[TokenUpdate]:
    """The tokens of a result as updates, one a segment, parents before children.

    Args:
        known: how many tokens of each segment are left out, by its number in the request.
    """
    stream, parents = result.stream, {ROOT: -1}
    for slot in np.flatnonzero(stream.fork).tolist():
        first = int(stream.fork[slot])
        parents |= dict.fromkeys(range(first, first + int(stream.paths[slot])), int(stream.origin[slot]))
    updates = []
    for number in np.unique(stream.origin).tolist():
        slots = np.flatnonzero(stream.origin == number)[known.get(number, 0) :]
        if len(slots):
            logprobs = stream.logprobs and stream.logprobs.take(slots)
            tokens = stream.token[slots].tolist()
            updates.append(TokenUpdate(result.request, number, parents[number], tokens, logprobs))
    return updates
