"""Independence by a model: how much likelier a path becomes once its siblings are read.

A local model scores each path of a block several times. *Alone*: as Multiverse attention shows it (question, prefix,
Map, the path so far). With its *siblings* before it: the ones that precede it, and the ones that follow it. And with
siblings in which every number of their own (one that is not in what all paths see) is another one.

Two measures follow, in nats. The *gain* is the mean over the path's tokens of log p with siblings minus log p alone:
all that a sibling explains, but also that a path is worded like its siblings, which says nothing against it. The *pull*
is the largest value over the path's numbers of log p with the siblings minus log p with the altered ones: wording
cancels out, what is left is the use of a sibling's numbers. A path that gains much or is pulled hard depends on a
sibling. Neither sees a mere mention ("as in the other case"); and a pull is also felt by a number that two paths find
each by itself.

All scores of a block come from one forward pass (see `chains`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from mvjax.curator.checks.chains import Chains
from mvjax.curator.local_model import LocalModel
from mvjax.curator.production import Finding
from mvjax.curator.text.arithmetic import NUMBER
from mvjax.curator.text.transcript import Block

CHECK = "likelihood"
GAIN = 1.5
"""Gain, in nats a token, from which a path counts as dependent: more than wording alone brought on real steps."""
PULL = 2.7
"""Pull, in nats, from which it does: somewhat more than what one in ten independent blocks of the tuning part of
`mvjax bench likelihood` exceed with the demo's model, 1.8, as a false alarm costs a block."""
SHOWN = 6
"""Tokens before and behind what is pulled most, in the reason."""


@dataclass(frozen=True, eq=False)
class PathScore:
    """Log-probabilities of a path's own tokens, in nats."""

    pieces: tuple[str, ...]
    """The tokens as text."""
    alone: Float[np.ndarray, "N"]
    """Without the siblings."""
    earlier: Float[np.ndarray, "N"]
    """With the siblings before it; for the first path the same as `alone`."""
    later: Float[np.ndarray, "N"]
    """With those behind it, the last one first; for the last path the same as `alone`."""
    earlier_altered: Float[np.ndarray, "N"]
    """As `earlier`, the siblings' own numbers altered."""
    later_altered: Float[np.ndarray, "N"]
    """As `later`, the siblings' own numbers altered."""

    @property
    def gain(self) -> float:
        """Mean gain from the siblings on that side from which the path gains more; 0 for a path without tokens."""
        return max(float(np.mean(side - self.alone)) for side in (self.earlier, self.later)) if self.pieces else 0.0

    @cached_property
    def pulled(self) -> tuple[float, int, int]:
        """The number of the path that is pulled most, on the side where that is more: the pull, its first token and the
        one behind its last; nothing where no number is."""
        ends = np.cumsum([len(piece) for piece in self.pieces])
        sides = [self.earlier - self.earlier_altered, self.later - self.later_altered]
        found = [(0.0, 0, 0)]
        for match in NUMBER.finditer("".join(self.pieces)):
            first, last = np.searchsorted(ends, [match.start(), match.end() - 1], side="right")
            tokens = slice(first, last + 1)
            found.append((max(float(side[tokens].sum()) for side in sides), int(first), int(last) + 1))
        return max(found)

    @property
    def pull(self) -> float:
        """The largest pull on a number, 0 at least."""
        return self.pulled[0]

    def around(self, first: int, last: int) -> str:
        """The words around some tokens."""
        return " ".join("".join(self.pieces[max(0, first - SHOWN) : last + SHOWN]).split())


@dataclass(frozen=True)
class LikelihoodCheck:
    """The check of a block's paths with one model."""

    model: LocalModel
    """What scores."""
    threshold: float = GAIN
    """Gain, in nats a token, from which a path counts as dependent."""
    pull: float = PULL
    """Pull, in nats, from which it does."""

    def check(self, block: Block, known: str) -> list[Finding]:
        """A finding for each path that depends on its siblings.

        Args:
            block: well-formed text; a nested block counts as part of its path, and is not looked into.
            known: question and prefix: what every path sees.
        Raises:
            TranscriptError: the block's text breaks the grammar.
        """
        findings = []
        for number, score in enumerate(score_block(self.model, block, known), 1):
            if score.pull >= self.pull:
                found = f"a number is {score.pull:.1f} nats likelier after a sibling's numbers than after other ones"
                limit, place = f"limit {self.pull:.1f}", score.pulled[1:]
            elif score.gain >= self.threshold:
                found = f"its tokens are {score.gain:.2f} nats likelier on average once the siblings are read"
                most = int((np.maximum(score.earlier, score.later) - score.alone).argmax())
                limit, place = f"limit {self.threshold:.2f}", (most, most + 1)
            else:
                continue
            reason = f"{found} ({limit}), at {score.around(*place)!r}: it seems to use what only a sibling says"
            findings.append(Finding(CHECK, f"path {number}", reason))
        return findings


def score_block(model: LocalModel, block: Block, known: str) -> list[PathScore]:
    """A score for each path of a block."""
    return score_blocks(model, [(block, known)])[0]


def score_blocks(
    model: LocalModel, blocks: Sequence[tuple[Block, str]], say: Callable[[str], None] = lambda _: None
) -> list[list[PathScore]]:
    """Scores of the paths of many blocks, each given with what is known before it.

    Raises:
        TranscriptError: a block's text breaks the grammar.
    """
    chains = [Chains.of(model, block, known) for block, known in blocks]
    values = model.log_probs([one.sheet for one in chains], [one.targets for one in chains], say)
    return [list(_scores(model, one, value)) for one, value in zip(chains, values, strict=True)]


def _scores(model: LocalModel, chains: Chains, values_N: np.ndarray) -> Iterator[PathScore]:
    """The scores of a block's paths from the log-probabilities of its targets."""
    found: dict[int, dict[str, np.ndarray]] = {}
    tokens: dict[int, np.ndarray] = {}
    ends = np.cumsum([len(part.targets) for part in chains.parts])[:-1]
    for part, values in zip(chains.parts, np.split(values_N, ends), strict=True):
        found.setdefault(part.path, {})[part.place] = values
        tokens[part.path] = chains.sheet.tokens[part.targets]
    for path, values in sorted(found.items()):
        for side in ("earlier", "later"):
            values.setdefault(side, values["alone"])
            values.setdefault(f"{side}_altered", values[side])
        yield PathScore(tuple(model.tokenizer.decode([token]) for token in tokens[path]), **values)
