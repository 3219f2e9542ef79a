"""How a request draws its tokens."""

from __future__ import annotations

import dataclasses

from mvjax.engine.checks import check_integer, check_number
from mvjax.errors import UserError

FLOAT32_MAX = 3.4e38


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How tokens are drawn. Order: temperature, top-k, top-p of what is left (as in the usual samplers), and of that
    what min-p keeps."""

    temperature: float = 0.0
    """0: the most probable token (lowest id on ties)."""
    top_k: int = 0
    """Keep the k most probable tokens, and any that tie with the last of them; 0: all."""
    top_p: float = 1.0
    """Keep the most probable tokens up to this mass, the one that crosses it included; 1: all."""
    min_p: float = 0.0
    """Keep the tokens whose probability, after the temperature, is at least this part of the largest; 0: all."""
    seed: int = 0
    """With the prompt and the other settings it fixes the answer, whatever the schedule."""

    def validate(self) -> SamplingParams:
        """These settings, or UserError when one is of a wrong type or out of range."""
        check_number("temperature", self.temperature, 0.0, FLOAT32_MAX, "0 (greedy) or more")
        check_integer("top_k", self.top_k, 0, note=" (0: all tokens)")
        check_number("top_p", self.top_p, 0.0, 1.0, "more than 0 and at most 1 (all tokens)")
        if self.top_p == 0:
            raise UserError("top_p is 0.0; give more than 0 and at most 1 (all tokens)")
        check_number("min_p", self.min_p, 0.0, 1.0, "0 (all tokens) to 1")
        check_integer("seed", self.seed, 0, 2**32 - 1)
        return self
