"""An answer as text while it grows: what is final, in the order of the transcript, and where a stop string ends it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from mvjax.engine import Result, TokenUpdate
from mvjax.serving.branches import Branches, BranchEvent, Run, TokenLogProb, updates_of

__all__ = ["AnswerText", "BranchEvent", "Piece", "TokenLogProb"]


class Piece(NamedTuple):
    """Text that is final."""

    kind: Literal["content", "reasoning"]
    text: str
    logprobs: tuple[TokenLogProb, ...] = ()
    """Of the sampled tokens of the content that end in this text; the tokens that the interpreter writes have none."""
    address: str = ""
    """Of the branch that it stands in, see `BranchEvent`; content is the root's."""


class AnswerText:
    """Takes the new tokens of a request, in whatever order its branches run, and gives text that is final.

    The pieces of each kind, put together, are the same for any division of the tokens into updates and any order of
    execution; a result alone gives them too (`finish` without any `add`). The cost of a call is that of its new tokens.

    Content is the text outside Think and blocks; reasoning the rest, tags of blocks included, in the order of the
    transcript (parent, paths by number, conclusion). The separator behind a closing tag belongs to the tag. The Think
    tags themselves are in neither. The first segment that has not ended flows, what follows it is held back.

    Attributes:
        stopped: the stop string that was met; the caller cancels the request then. No more text comes.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompt_last_position: int,
        *,
        stop: Sequence[str] = (),
        branches: Literal["apart", "transcript"] = "apart",
        logprobs: bool = False,
        vocabulary: Any = None,
    ):
        """
        Args:
            stop: strings that end the answer where its content first holds one, without it.
            branches: "transcript": everything is content, as it stands in the transcript; stop strings are still
                looked for outside Think and blocks only, and none reaches over a tag.
            logprobs: whether pieces carry them.
            vocabulary: the tokenizer's `VocabularyTables`, where they are at hand.
        """
        self.stopped: str | None = None
        self._branches = Branches(tokenizer, vocabulary or tokenizer.tables(), prompt_last_position, logprobs=logprobs)
        self._whole, self._stop = branches == "transcript", [text for text in stop if text]
        self._longest = max(map(len, self._stop), default=0)
        self._held = ""
        """The end of the content, which may be the beginning of a stop string."""
        self._held_logprobs: list[tuple[int, TokenLogProb]] = []
        """Of tokens that end in what is held."""

    def add(self, updates: Sequence[TokenUpdate]) -> tuple[list[Piece], list[BranchEvent]]:
        """New tokens; the text that has become final, and what happened in the branches."""
        events = self._branches.add(updates)
        return self._pieces(), events

    def finish(self, result: Result) -> tuple[list[Piece], list[BranchEvent]]:
        """The request has ended; what was held back. Tokens that were not added are taken from the result."""
        known = {number: segment.tokens for number, segment in self._branches.segments.items()}
        events = self._branches.add(updates_of(result, known))
        events += self._branches.finish()
        pieces = self._pieces()
        if self.stopped is None:
            pieces += self._release()
        return pieces, events

    def tree(self, result: Result) -> list[dict[str, Any]]:
        """The branches of an ended request in the order of the transcript, each with its address, its text, the number
        of its tokens, why it was cut (None: it was not), and how many of its blocks were abandoned."""
        return [
            {
                "address": segment.address,
                "text": "".join(segment.text),
                "tokens": segment.tokens,
                "cut": result.cuts.get(number),
                "abandoned": segment.abandoned,
            }
            for number, segment in enumerate(self._branches.in_order())
        ]

    def _pieces(self) -> list[Piece]:
        pieces: list[Piece] = []
        for run in self._branches.runs():
            if self.stopped is not None:
                break
            if run.kind == "content":
                pieces += self._content(run)
            elif self._whole:
                pieces += [*self._release(), *piece("content", run.text, [one for _, one in run.logprobs])]
            elif run.kind == "reasoning":
                pieces += piece("reasoning", run.text, [], run.address)
        return pieces

    def _content(self, run: Run) -> list[Piece]:
        """The content as far as no stop string can begin in it any more."""
        before, text = len(self._held), self._held + run.text
        logprobs = [*self._held_logprobs, *((before + end, one) for end, one in run.logprobs)]
        found = [(at + len(stop), at, stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:  # The first that is complete, as if the text came letter by letter.
            _, final, self.stopped = min(found)
        else:
            final = len(text) - self._beginning(text)
        self._held = text[final:]
        self._held_logprobs = [(end - final, one) for end, one in logprobs if end > final]
        return piece("content", text[:final], [one for end, one in logprobs if end <= final])

    def _beginning(self, text: str) -> int:
        """Length of the longest end of a text that a stop string begins with."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0

    def _release(self) -> list[Piece]:
        """What was held: no stop string comes of it."""
        text, logprobs = self._held, [one for _, one in self._held_logprobs]
        self._held, self._held_logprobs = "", []
        return piece("content", text, logprobs)


def piece(
    kind: Literal["content", "reasoning"], text: str, logprobs: Sequence[TokenLogProb], address: str = ""
) -> list[Piece]:
    """One piece, or none where there is nothing in it."""
    return [Piece(kind, text, tuple(logprobs), address)] if text or logprobs else []
