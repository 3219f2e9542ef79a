"""How a request draws its tokens."""

from __future__ import annotations

import dataclasses

from mvjax import settings
from mvjax.settings import setting

FLOAT32_MAX = 3.4e38


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How tokens are drawn. Order: temperature, top-k, top-p of what is left (as in the usual samplers), and of that
    what min-p keeps."""

    temperature: float = setting(0.0, at_least=0, at_most=FLOAT32_MAX)
    """0: the most probable token (lowest id on ties)."""
    top_k: int = setting(0, at_least=0)
    """Keep the k most probable tokens, and any that tie with the last of them; 0: all."""
    top_p: float = setting(1.0, above=0, at_most=1)
    """Keep the most probable tokens up to this mass, the one that crosses it included; 1: all."""
    min_p: float = setting(0.0, at_least=0, at_most=1)
    """Keep the tokens whose probability, after the temperature, is at least this part of the largest; 0: all."""
    seed: int = setting(0, at_least=0, at_most=2**32 - 1)
    """With the prompt and the other settings it fixes the answer, whatever the schedule."""

    def validate(self) -> SamplingParams:
        """These settings, or UserError when one is of a wrong type or out of range."""
        settings.validate(self, "")
        return self
