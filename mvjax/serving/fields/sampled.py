"""Fields that all calls share which generate."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from mvjax.engine.limits import Limits, Mode
from mvjax.engine.sampling_params import FLOAT32_MAX, MOST_BIASES, MOST_STOPS, SamplingParams
from mvjax.errors import UserError
from mvjax.serving.fields.values import Bias, Fields, Flag, Int64, Number, Positive, Token, TokenKey, Whole
from mvjax.settings import INT32_MAX

INT64 = 2**64


class StreamOptions(Fields):
    """What a stream holds beside the text."""

    include_usage: Flag | None = None
    """One more chunk at the end, with the usage and without choices."""
    include_branches: Flag | None = None
    """Events of branches as they happen: `choices[0].delta.branch`."""
    include_obfuscation: Flag | None = None
    """Accepted; nothing is padded."""
    continuous_usage_stats: Flag | None = None
    """With `include_usage`: every chunk has the counts so far."""

    def usage(self) -> tuple[bool, bool]:
        """Whether a stream ends with the usage, and whether every chunk has counts; UserError for the second alone."""
        if self.continuous_usage_stats and not self.include_usage:
            raise UserError("stream_options: continuous_usage_stats goes with include_usage; set both")
        return bool(self.include_usage), bool(self.continuous_usage_stats)


class Sampled(Fields):
    """How the answer is generated."""

    temperature: Annotated[Number, Field(ge=0, le=FLOAT32_MAX)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(strict=True, ge=-1, le=INT32_MAX)] | None = None
    """-1 and 0: all tokens."""
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    seed: Int64 | None = None
    """With the prompt and the other fields it fixes the answer. Answer number i of a call has the seed `seed + i`."""
    logit_bias: Annotated[dict[TokenKey, Bias], Field(max_length=MOST_BIASES)] | None = None
    ignore_eos: Flag | None = None
    min_tokens: Whole | None = None
    stop_token_ids: Annotated[list[Token], Field(max_length=MOST_STOPS)] | None = None
    mode: Mode | None = None
    """parallel; sequential: the same tokens, branch by branch; autoregressive: no blocks."""
    max_positions: Positive | None = None
    """Length of the critical path at most."""
    max_path_tokens: Positive | None = None
    max_paths: Positive | None = None
    max_depth: Whole | None = None
    min_block_share: Whole | None = None
    branches: Literal["apart", "transcript"] | None = None
    """apart: the text outside Think and blocks, the rest beside it as reasoning; transcript: everything in one text."""
    user: str | None = None
    stream: Flag | None = None

    def sampling(self, index: int, temperature: float, seed: int, more: dict[str, Any] | None = None) -> SamplingParams:
        """How answer number `index` draws its tokens; UserError for values that do not fit each other.

        Args:
            temperature, seed: where the request names none.
            more: fields in place of the request's.
        """
        seed = (seed if self.seed is None else self.seed) + index
        settings: dict[str, Any] = {
            "temperature": temperature if self.temperature is None else self.temperature,
            "top_p": self.top_p,
            "top_k": None if self.top_k is None else max(self.top_k, 0),
            "min_p": self.min_p,
            "logit_bias": None if self.logit_bias is None else {int(k): v for k, v in self.logit_bias.items()},
            "ignore_eos": self.ignore_eos,
            "min_tokens": self.min_tokens,
            "stop_token_ids": None if self.stop_token_ids is None else tuple(self.stop_token_ids),
            "seed": (seed + INT64 // 2) % INT64 - INT64 // 2,
            **(more or {}),
        }
        return SamplingParams(**{name: value for name, value in settings.items() if value is not None}).validate()

    def limits(self, max_new_tokens: int, most_paths: int, most_depth: int) -> Limits:
        """Limits of an answer with at most this number of new tokens; those not named are the engine's defaults, as far
        as it was built for them."""
        names = ("max_positions", "max_path_tokens", "max_paths", "max_depth", "min_block_share")
        named: dict[str, int] = {name: value for name in names if (value := getattr(self, name)) is not None}
        defaults = {"max_paths": min(Limits.max_paths, most_paths), "max_depth": min(Limits.max_depth, most_depth)}
        return Limits(max_new_tokens=max_new_tokens, **{**defaults, **named})
