"""What a store holds, in numbers: how problems ended and why, what the calls of each stage took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mvjax.curator.store import Store


@dataclass(frozen=True)
class Counts:
    """Problems by how they ended."""

    total: int
    """Problems, and lines of the input that are none."""
    pending: int
    """Those that have not ended."""
    parallel: int
    """Accepted, with something parallel in them."""
    sequential: int
    """Accepted as sequential text."""
    rejected: int
    """Not accepted, unusable lines included."""
    reasons: Mapping[str, int]
    """Rejected ones by class of reason, most frequent first."""
    limited: Mapping[str, int]
    """Accepted ones that are sequential, or less parallel than proposed, by class of reason."""
    findings: Mapping[str, int]
    """Everything that checks found, mended or not, by class."""

    @property
    def done(self) -> int:
        """Those that have ended."""
        return self.total - self.pending


@dataclass(frozen=True)
class StageUse:
    """What the calls of one stage took."""

    stage: str
    calls: int
    """Replies in all."""
    retries: int
    """Those to a call that was made again with a reason."""
    faulty: int
    """Cut, refused or failed ones."""
    dropped: int
    """Those that count no more: prompts changed, or the problem was begun again."""
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    """From request to reply, added up."""
    estimated: int
    """Replies whose tokens the endpoint did not count."""
    cost: float


def count(store: Store) -> Counts:
    """Count a store's problems."""
    states = _table(store, "SELECT state, count(*) FROM outcomes GROUP BY state")
    ((problems,),) = store.rows("SELECT count(*) FROM problems")
    ((faults,),) = store.rows("SELECT count(*) FROM faults")
    return Counts(
        total=problems + faults,
        pending=problems - sum(states.values()),
        parallel=states.get("parallel", 0),
        sequential=states.get("sequential", 0),
        rejected=states.get("rejected", 0) + faults,
        reasons=_table(
            store,
            "SELECT class, sum(n) FROM (SELECT reason AS class, count(*) AS n FROM outcomes WHERE state = 'rejected'"
            " GROUP BY reason UNION ALL SELECT class, count(*) FROM faults GROUP BY class) GROUP BY class",
        ),
        limited=_table(
            store,
            "SELECT reason, count(*) FROM outcomes WHERE state != 'rejected' AND reason != '' GROUP BY reason",
        ),
        findings=_table(
            store,
            "SELECT json_extract(value, '$.check') AS class, count(*) FROM outcomes,"
            " json_each(outcomes.outcome, '$.findings') GROUP BY class",
        ),
    )


def use(store: Store) -> list[StageUse]:
    """What each stage took, in the order in which stages were first asked."""
    rows = store.rows(
        "SELECT stage, count(*), sum(why != ''), sum(finish != 'stop'), sum(number IS NULL), sum(prompt_tokens),"
        " sum(completion_tokens), sum(seconds), sum(estimated), sum(cost) FROM calls"
        " GROUP BY stage ORDER BY min(number), min(rowid)"
    )
    return [StageUse(*row) for row in rows]


def _table(store: Store, question: str) -> dict[str, int]:
    """Counts by class, most frequent first."""
    return dict(sorted(store.rows(question), key=lambda row: (-row[1], row[0])))
