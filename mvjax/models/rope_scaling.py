"""Rotary frequencies beyond the length that a model was trained for: Llama 3's, linear, YaRN and dynamic scaling.

Kinds, keys and defaults are those of Hugging Face `modeling_rope_utils` (transformers 5).

Dynamic scaling depends on the length of the sequence. Here that is the largest position of a row of the batch, plus
one: positions in a transcript are no indices (siblings share them). Up to `max_position_embeddings` it changes nothing.
Keys in a KV stream keep the rotation with which they were written, so the engine cannot follow a length that grows:
it serves positions up to `max_position_embeddings` only, unless the configuration fixes a length (`length` in
`rope_scaling`, a key of mvjax). Then training and the engine both use the frequencies of that length for everything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from mvjax.errors import UserError


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3's stretch of the low rotary frequencies (Hugging Face `rope_type` "llama3")."""

    factor: float
    """Low frequencies are divided by this."""
    low_freq_factor: float
    """Wavelengths above original_max_position / low_freq_factor are stretched in full."""
    high_freq_factor: float
    """Wavelengths below original_max_position / high_freq_factor stay as they are."""
    original_max_position: int
    """Context length of the model before the stretch."""
    kind: ClassVar[str] = "llama3"
    attention: ClassVar[float] = 1.0

    def scaled(self, inverse_h: Float[np.ndarray, " h"], theta: float) -> Float[np.ndarray, " h"]:
        """The stretched frequencies, radians per position."""
        keep = llama3_ramp(self, 2 * np.pi / inverse_h)
        return ((1 - keep) * inverse_h / self.factor + keep * inverse_h).astype(np.float32)

    def reach(self, max_position: int) -> int:
        """Positions that the model can be used for: the configuration counts the stretch in."""
        return max_position

    def to_hf(self) -> dict[str, Any]:
        """`rope_scaling` as config.json has it."""
        return {
            "rope_type": self.kind,
            "original_max_position_embeddings": self.original_max_position,
            "factor": self.factor,
            "low_freq_factor": self.low_freq_factor,
            "high_freq_factor": self.high_freq_factor,
        }


@dataclass(frozen=True)
class LinearScaling:
    """All positions are divided by one factor (`rope_type` "linear")."""

    factor: float
    """Of the division."""
    kind: ClassVar[str] = "linear"
    attention: ClassVar[float] = 1.0

    def scaled(self, inverse_h: Float[np.ndarray, " h"], theta: float) -> Float[np.ndarray, " h"]:
        """The stretched frequencies, radians per position."""
        return inverse_h / np.float32(self.factor)

    def reach(self, max_position: int) -> int:
        """Positions that the model can be used for."""
        return math.floor(max_position * max(self.factor, 1.0))

    def to_hf(self) -> dict[str, Any]:
        """`rope_scaling` as config.json has it."""
        return {"rope_type": self.kind, "factor": self.factor}


@dataclass(frozen=True)
class YarnScaling:
    """YaRN (arXiv 2309.00071, `rope_type` "yarn"): low frequencies are divided, high ones stay, scores grow."""

    factor: float
    """Low frequencies are divided by this."""
    original_max_position: int
    """Context length of the model before the stretch."""
    beta_fast: float = 32.0
    """Frequencies that turn more often than this over the original length stay as they are."""
    beta_slow: float = 1.0
    """Frequencies that turn less often than this are divided in full."""
    attention: float = 1.0
    """Cosine and sine are multiplied by this: attention scores by its square."""
    truncate: bool = True
    """The ends of the ramp between the two are rounded to whole features."""
    kind: ClassVar[str] = "yarn"

    def scaled(self, inverse_h: Float[np.ndarray, " h"], theta: float) -> Float[np.ndarray, " h"]:
        """The stretched frequencies, radians per position."""
        width = 2 * len(inverse_h)

        def feature(turns: float) -> float:
            """The feature that turns so often over the original length."""
            return width * math.log(self.original_max_position / (turns * 2 * math.pi)) / (2 * math.log(theta))

        low, high = feature(self.beta_fast), feature(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, width - 1)
        if low == high:
            high += 0.001
        ramp_h = np.clip((np.arange(len(inverse_h), dtype=np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
        keep_h = 1 - ramp_h
        return (inverse_h / np.float32(self.factor) * (1 - keep_h) + inverse_h * keep_h).astype(np.float32)

    def reach(self, max_position: int) -> int:
        """Positions that the model can be used for; the configuration may or may not count the stretch in."""
        return max(max_position, math.floor(self.factor * self.original_max_position))

    def to_hf(self) -> dict[str, Any]:
        """`rope_scaling` as config.json has it."""
        found: dict[str, Any] = {
            "rope_type": self.kind,
            "factor": self.factor,
            "original_max_position_embeddings": self.original_max_position,
            "beta_fast": self.beta_fast,
            "beta_slow": self.beta_slow,
            "attention_factor": self.attention,
        }
        return found if self.truncate else {**found, "truncate": False}


@dataclass(frozen=True)
class DynamicScaling:
    """NTK scaling by the length of the sequence (`rope_type` "dynamic"), see above."""

    factor: float
    """How strongly a longer sequence raises the base of the frequencies."""
    length: int | None = None
    """Length that is fixed for everything; None: that of each row, and the engine stays within max_position."""
    kind: ClassVar[str] = "dynamic"
    attention: ClassVar[float] = 1.0

    def growth(self, length: Any, max_position: int) -> Any:
        """What the base is multiplied by, before the exponent H / (H - 2), for a length of at least max_position."""
        return self.factor * length / max_position - (self.factor - 1)

    def reach(self, max_position: int) -> int:
        """Positions that the model can be used for."""
        return max(max_position, self.length or 0)

    def to_hf(self) -> dict[str, Any]:
        """`rope_scaling` as config.json has it."""
        found = {"rope_type": self.kind, "factor": self.factor}
        return found if self.length is None else {**found, "length": self.length}


Scaling = Llama3Scaling | LinearScaling | YarnScaling | DynamicScaling
KINDS = ("default", "llama3", "linear", "yarn", "dynamic")
"""Kinds of scaling that the decoder follows."""


def llama3_ramp(scaling: Llama3Scaling, wavelength_h: Float[np.ndarray, " h"]) -> Float[np.ndarray, " h"]:
    """Of each wavelength: 1 where its frequency stays, 0 where it is stretched in full, a ramp between."""
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    return np.clip((scaling.original_max_position / wavelength_h - low) / (high - low), 0.0, 1.0)


def rope_kind(rope: Mapping[str, Any]) -> str:
    """Kind of the rotary scaling: "default" for none."""
    return rope.get("rope_type") or rope.get("type") or "default"


def read_scaling(rope: Mapping[str, Any], max_position: int, where: object) -> Scaling | None:
    """The scaling that rotary settings ask for; None for none, and for kinds that the decoder does not follow.

    max_position: `max_position_embeddings`. Raises UserError for a key that is missing or no number.
    """
    kind = rope_kind(rope)
    if kind not in KINDS or kind == "default":
        return None

    def value(key: str, default: float | None = None) -> float:
        found = rope.get(key)
        if found is None:
            found = default
        if found is None:
            raise UserError(f"{where}: rope_scaling of type {kind} lacks {key}")
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 < found < math.inf:
            raise UserError(f"{where}: rope_scaling of type {kind}: {key} = {found!r} should be a positive number")
        return float(found)

    if kind == "linear":
        return LinearScaling(value("factor"))
    if kind == "dynamic":
        return DynamicScaling(value("factor"), None if rope.get("length") is None else int(value("length")))
    original = int(value("original_max_position_embeddings", max_position))
    if kind == "llama3":
        return Llama3Scaling(value("factor"), value("low_freq_factor"), value("high_freq_factor"), original)
    factor = value("factor", max_position / original)
    return YarnScaling(
        factor,
        original,
        value("beta_fast", 32.0) if rope.get("beta_fast") else 32.0,
        value("beta_slow", 1.0) if rope.get("beta_slow") else 1.0,
        yarn_attention(rope, factor, value),
        bool(rope.get("truncate", True)),
    )


def yarn_attention(rope: Mapping[str, Any], factor: float, value: Any) -> float:
    """YaRN's factor of cosine and sine: the one given, or by its formula (section 3.4)."""

    def scale(weight: float = 1.0) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if rope.get("attention_factor") is not None:
        return value("attention_factor")
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return scale(value("mscale")) / scale(value("mscale_all_dim"))
    return scale()
