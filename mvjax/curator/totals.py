"""The progress of a run."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from mvjax.curator.production import Outcome, Reply
from mvjax.curator.store import Store
from mvjax.curator.store.counts import count

INTERRUPTED = "interrupted"
BUDGET = "budget"


@dataclass
class Totals:
    """Records of a store by how they ended, and what a run has done about them."""

    total: int
    """Records of the store, lines of the input that are none included."""
    parallel: int
    """Accepted, with something parallel."""
    sequential: int
    """Accepted as sequential text."""
    rejected: int
    """Not accepted."""
    reasons: Counter[str]
    """Rejected ones by class of reason."""
    cost: float
    """Of all calls of the store."""
    finished: int = 0
    """Records that ended in this run."""
    calls: int = 0
    """Calls made in this run."""
    replayed: int = 0
    """Calls of this run's records whose replies the store had."""
    tokens: int = 0
    """Tokens of this run's calls, prompts and replies."""
    stopped: str = ""
    """Why the run ended before the last record: interrupted, budget; "" where it did not."""
    started: float = field(default_factory=time.monotonic)
    """When the run began."""

    @classmethod
    def of(cls, store: Store) -> Totals:
        """Where a run begins."""
        counts = count(store)
        reasons = Counter(counts.reasons)
        return cls(counts.total, counts.parallel, counts.sequential, counts.rejected, reasons, store.spent()[2])

    @property
    def done(self) -> int:
        """Records that have ended."""
        return self.parallel + self.sequential + self.rejected

    @property
    def left(self) -> int:
        """Records that have not."""
        return self.total - self.done

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self.started

    def add_outcome(self, outcome: Outcome) -> None:
        """Count a record that has ended."""
        self.finished += 1
        self.parallel += outcome.state == "parallel"
        self.sequential += outcome.state == "sequential"
        self.rejected += outcome.state == "rejected"
        if outcome.record is None:
            self.reasons[outcome.check] += 1

    def add_reply(self, reply: Reply, cost: float) -> None:
        """Count a call that was made."""
        self.calls += 1
        self.tokens += reply.prompt_tokens + reply.completion_tokens
        self.cost += cost
