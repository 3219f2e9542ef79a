"""How a request draws its tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from mvjax import settings
from mvjax.engine.limits import Limits
from mvjax.errors import UserError
from mvjax.settings import setting

FLOAT32_MAX = 3.4e38
MOST_STOPS, MOST_BIASES = 8, 64
"""Stop ids and biased tokens of a request at most: they have places of their own on the device."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How tokens are drawn. Order: biases, bars, temperature, top-k, top-p of what is left (as in the usual samplers),
    and of that what min-p keeps."""

    temperature: float = setting(0.0, at_least=0, at_most=FLOAT32_MAX)
    """0: the most probable token (lowest id on ties)."""
    top_k: int = setting(0, at_least=0)
    """Keep the k most probable tokens, and any that tie with the last of them; 0: all."""
    top_p: float = setting(1.0, above=0, at_most=1)
    """Keep the most probable tokens up to this mass, the one that crosses it included; 1: all."""
    min_p: float = setting(0.0, at_least=0, at_most=1)
    """Keep the tokens whose probability, after the temperature, is at least this part of the largest; 0: all."""
    logit_bias: Mapping[int, float] = setting({}, at_least=-100, at_most=100)
    """Added to the logits of these token ids, 64 at most. What the grammar bars stays barred."""
    stop_token_ids: tuple[int, ...] = setting((), at_least=0)
    """Token ids, 8 at most, that count as end-of-text: in the root they end the request, inside a path the path, and
    they are not kept. Where end-of-text is barred (in a Map, a Conclusion, an open <Think>) they are, too."""
    ignore_eos: bool = setting(False)
    """Bar end-of-text and stop ids everywhere: a request goes on to its limits, a path to its </Path>."""
    min_tokens: int = setting(0, at_least=0)
    """Bar end-of-text and stop ids in the root until the request has this many new tokens, counted as max_new_tokens
    counts them (all branches, written ones included); paths may end before. 0: off."""
    seed: int = setting(0, at_least=-(2**63), at_most=2**63 - 1)
    """With the prompt and the other settings it fixes the answer, whatever the schedule."""

    def validate(self) -> SamplingParams:
        """These settings, or UserError when one is of a wrong type or out of range."""
        settings.validate(self, "")
        return self

    def conflict(self) -> str:
        """Which setting names too many tokens; empty: none."""
        for name, most in (("logit_bias", MOST_BIASES), ("stop_token_ids", MOST_STOPS)):
            if (count := len(set(getattr(self, name)))) > most:
                return f"{name} names {count} tokens; give {most} at most"
        return ""

    def check(self, limits: Limits, codes_V: Sequence[int]) -> SamplingParams:
        """These settings, or UserError when they do not fit a request's limits or the vocabulary.

        Args:
            codes_V: tag of each token, negative for text.
        """
        if self.min_tokens > limits.max_new_tokens:
            raise UserError(
                f"min_tokens = {self.min_tokens} must be at most max_new_tokens, which is {limits.max_new_tokens}"
            )
        for name in ("logit_bias", "stop_token_ids"):
            for token in getattr(self, name):
                if token >= len(codes_V):
                    raise UserError(f"{name}: token {token} is outside the vocabulary of {len(codes_V)}")
                if name == "stop_token_ids" and codes_V[token] >= 0:
                    raise UserError(f"{name}: token {token} is a control tag, which cannot stop; name another token")
        return self
