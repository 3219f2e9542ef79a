"""What a store keeps besides problems and outcomes, and what it says of an input."""

from __future__ import annotations

from dataclasses import dataclass

from mvjax.curator.production import Reply
from mvjax.data.records import Fault

UNUSABLE = "unusable input"
DUPLICATE_ID = "duplicate id"
DUPLICATE = "duplicate"


@dataclass
class Added:
    """What came of adding problems to a store."""

    new: int = 0
    """Problems that the store did not have."""
    known: int = 0
    """Those that it had already, word for word."""
    duplicates: int = 0
    """New ones that are another problem's exact duplicate: rejected at once."""
    faults: int = 0
    """Lines that cannot be used."""
    first_fault: Fault | None = None
    """The first of them."""

    @property
    def total(self) -> int:
        """Lines in all."""
        return self.new + self.known + self.faults


@dataclass(frozen=True)
class StoredCall:
    """A call and its reply as the store keeps them: the request can be made again, so it is kept by its hash."""

    number: int | None
    """Its place in the production; None where it counts no more."""
    stage: str
    where: str
    why: str
    fingerprint: str
    reply: Reply
    cost: float
    """In the currency of the prices."""
    time: float
    """When the reply came, in seconds since 1970."""
