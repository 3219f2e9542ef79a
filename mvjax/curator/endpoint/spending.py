"""What calls cost, and the budget that ends a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mvjax.curator.production import Call, Reply

BYTES = 4
"""Bytes of a token, where nobody counts them."""
MILLION = 1_000_000


def estimate(text: str) -> int:
    """Tokens of a text, roughly: a quarter of its UTF-8 bytes, so of its characters in English."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES)


def prompt_tokens(call: Call) -> int:
    """Tokens of a call's messages, roughly."""
    return sum(estimate(message["content"]) + 4 for message in call.messages)


@dataclass(frozen=True)
class Usage:
    """Tokens of a request."""

    prompt_tokens: int
    """Sent."""
    completion_tokens: int
    """Come back."""
    estimated: bool = False
    """Whether one of the two is an estimate, as the endpoint did not tell it."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.estimated or other.estimated,
        )

    def of(self, reply: Reply) -> Reply:
        """A reply with its tokens and these."""
        return replace(
            reply,
            prompt_tokens=reply.prompt_tokens + self.prompt_tokens,
            completion_tokens=reply.completion_tokens + self.completion_tokens,
            estimated=reply.estimated or self.estimated,
        )

    @classmethod
    def read(cls, told: Any, call: Call, text: str) -> Usage:
        """What an endpoint tells about a reply, estimates where it tells nothing.

        Args:
          told: `usage` of its response, whatever that is.
          call: what was asked.
          text: what came back.
        """
        fields = told if isinstance(told, Mapping) else {}
        prompt, completion = (_count(fields.get(name)) for name in ("prompt_tokens", "completion_tokens"))
        return cls(
            prompt_tokens(call) if prompt is None else prompt,
            estimate(text) if completion is None else completion,
            estimated=prompt is None or completion is None,
        )


NOTHING = Usage(0, 0)


@dataclass(frozen=True)
class Prices:
    """Of a million tokens each, in whatever currency."""

    prompt: float = 0.0
    """Tokens that are sent."""
    completion: float = 0.0
    """Tokens that come back."""

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Of this number of tokens."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / MILLION


class Spending:
    """What was spent, and what the calls in flight may still cost.

    Args:
      prices: of tokens.
      budget: most money that may be spent; 0: no limit.
      token_budget: most tokens that may be sent and come back; 0: no limit.
    """

    def __init__(self, prices: Prices, budget: float = 0.0, token_budget: int = 0):
        self.prices, self.budget, self.token_budget = prices, budget, token_budget
        self.spent = 0.0
        """Money, of all replies that were added."""
        self.tokens = 0
        """Tokens of these."""
        self._in_flight: list[tuple[str, float, int]] = []

    def allows(self, call: Call) -> bool:
        """Whether a call fits into the budget, whatever it and those in flight come to; if so it is in flight."""
        sent = prompt_tokens(call)
        worst, tokens = self.prices.cost(sent, call.max_tokens), sent + call.max_tokens
        if self.budget and self.spent + sum(cost for _, cost, _ in self._in_flight) + worst > self.budget:
            return False
        if self.token_budget and self.tokens + sum(n for _, _, n in self._in_flight) + tokens > self.token_budget:
            return False
        self._in_flight.append((call.fingerprint, worst, tokens))
        return True

    def cost(self, reply: Reply) -> float:
        """What a reply cost."""
        return self.prices.cost(reply.prompt_tokens, reply.completion_tokens)

    def add(self, reply: Reply, call: Call | None = None) -> None:
        """Count a reply.

        Args:
          call: what it replies to, which is in flight no more; None for replies of an earlier run.
        """
        self.spent += self.cost(reply)
        self.tokens += reply.prompt_tokens + reply.completion_tokens
        if call is not None:
            name = call.fingerprint
            landed = next((entry for entry in self._in_flight if entry[0] == name), None)
            if landed is not None:
                self._in_flight.remove(landed)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
