"""The shape of a decoder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from mvjax.errors import UserError
from mvjax.models.rope_scaling import DynamicScaling, Scaling


def is_size(value: object) -> bool:
    """Whether a value is a positive whole number."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes a decoder's parameters and arithmetic. Hashable: it is a static part of the module."""

    family: str
    """A name in `mvjax.models.families.FAMILIES`; it decides on norms, biases and the arithmetic of a layer."""
    vocab_size: int
    """Rows of the embedding matrix (V)."""
    embed: int
    """Width of the residual stream (D)."""
    layers: int
    """Number of blocks (L)."""
    heads: int
    """Query heads (N)."""
    kv_heads: int
    """Key and value heads (K); a divisor of `heads`."""
    head_dim: int
    """Width of a head (H), even."""
    ffn: int
    """Width of the gated feed-forward layer (F)."""
    rope_theta: float = 10000.0
    """Base of the rotary frequencies."""
    rope_scaling: Scaling | None = None
    """How the rotary frequencies reach beyond the trained length, where the checkpoint says so."""
    rms_eps: float = 1e-6
    """Added to the mean square in every RMSNorm."""
    tied: bool = True
    """The output matrix is the embedding matrix."""
    attention_bias: bool = False
    """The projections of the attention have biases, in families that leave it to the configuration."""
    max_position: int = 2048
    """`max_position_embeddings`: positions that the base model was trained for, of some kinds of scaling with it."""
    bos: int | None = None
    """Beginning-of-text id; carried for saving."""
    eos: tuple[int, ...] = ()
    """End-of-text ids; carried for saving."""
    pad: int | None = None
    """Padding id; carried for saving."""
    scan_layers: bool = True
    """Parameters of all blocks stacked [L, ...] and run by lax.scan, instead of one module per block."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "embed", "layers", "heads", "kv_heads", "head_dim", "ffn", "max_position"):
            value = getattr(self, name)
            if not is_size(value):
                raise UserError(f"model config: {name} must be a positive whole number, not {value!r}")
        if self.heads % self.kv_heads:
            raise UserError(f"model config: {self.heads} heads cannot share {self.kv_heads} key/value heads evenly")
        if self.head_dim % 2:
            raise UserError(f"model config: head_dim {self.head_dim} is odd; rotary embedding needs an even one")

    @property
    def group(self) -> int:
        """Query heads per key/value head (G)."""
        return self.heads // self.kv_heads

    @property
    def reach(self) -> int:
        """Positions that the model can be used for, rotary scaling counted in."""
        return self.max_position if self.rope_scaling is None else self.rope_scaling.reach(self.max_position)

    def served(self) -> ModelConfig:
        """The configuration with a fixed length of dynamic scaling: keys that are written once must fit later ones."""
        if isinstance(self.rope_scaling, DynamicScaling) and self.rope_scaling.length is None:
            scaling = dataclasses.replace(self.rope_scaling, length=self.max_position)
            return dataclasses.replace(self, rope_scaling=scaling)
        return self

    def shape(self) -> dict[str, Any]:
        """The fields that an adapter must share with its base model, as JSON values."""
        loose = ("max_position", "bos", "eos", "pad", "scan_layers", "rms_eps", "rope_theta", "rope_scaling")
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in loose}
