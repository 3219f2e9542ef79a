"""The shape of a decoder, read from and written to a Hugging Face `config.json` dictionary."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mvjax.errors import UserError

FAMILIES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's stretch of the low rotary frequencies (Hugging Face `rope_type` "llama3")."""

    factor: float
    """Low frequencies are divided by this."""
    low_freq_factor: float
    """Wavelengths above original_max_position / low_freq_factor are stretched in full."""
    high_freq_factor: float
    """Wavelengths below original_max_position / high_freq_factor stay as they are."""
    original_max_position: int
    """Context length of the model before the stretch."""


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes a decoder's parameters and arithmetic. Hashable: it is a static part of the module."""

    family: str
    """"llama" (Llama, SmolLM2), "qwen2" (Qwen2, Qwen2.5) or "qwen3"."""
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
    rope_scaling: RopeScaling | None = None
    """Llama 3's frequency stretch, where the checkpoint has one."""
    rms_eps: float = 1e-6
    """Added to the mean square in every RMSNorm."""
    tied: bool = True
    """The output matrix is the embedding matrix."""
    qkv_bias: bool = False
    """Q, K and V projections have a bias (Qwen2)."""
    qk_norm: bool = False
    """Q and K are RMS-normalised per head before the rotation (Qwen3)."""
    max_position: int = 2048
    """Largest number of positions that the base model was trained for."""
    bos: int | None = None
    """Beginning-of-text id; carried for saving."""
    eos: tuple[int, ...] = ()
    """End-of-text ids; carried for saving."""
    pad: int | None = None
    """Padding id; carried for saving."""
    scan_layers: bool = True
    """Parameters of all blocks stacked [L, ...] and run by lax.scan, instead of one module per block."""

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise UserError(f"model config: family {self.family!r} is not one of {', '.join(FAMILIES)}")
        for name in ("vocab_size", "embed", "layers", "heads", "kv_heads", "head_dim", "ffn", "max_position"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
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
    def parameters(self) -> int:
        """Number of parameters, the output matrix counted once where it is tied."""
        qkv = (self.heads + 2 * self.kv_heads) * self.head_dim
        block = self.embed * (qkv + self.heads * self.head_dim + 3 * self.ffn + 2)
        block += qkv * self.qkv_bias + 2 * self.head_dim * self.qk_norm
        return self.layers * block + self.embed + self.vocab_size * self.embed * (1 if self.tied else 2)

    def shape(self) -> dict[str, Any]:
        """The fields that an adapter must share with its base model, as JSON values."""
        loose = ("max_position", "bos", "eos", "pad", "scan_layers", "rms_eps", "rope_theta", "rope_scaling")
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in loose}

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], *, scan_layers: bool = True) -> ModelConfig:
        """Read a Hugging Face `config.json` dictionary (the keys of transformers 4 and 5).

        Raises UserError, naming the key, for a model that this decoder would compute wrongly.
        """
        family = config.get("model_type")
        if family not in FAMILIES:
            raise UserError(
                f"model config: model_type {family!r} is not supported; convert a model of {', '.join(FAMILIES)}"
            )
        refuse_unsupported(config)
        heads = required(config, "num_attention_heads")
        embed = required(config, "hidden_size")
        rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
        theta = rope.get("rope_theta", config.get("rope_theta"))
        eos = config.get("eos_token_id")
        tied = config.get("tie_word_embeddings")
        return cls(
            family=family,
            vocab_size=required(config, "vocab_size"),
            embed=embed,
            layers=required(config, "num_hidden_layers"),
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or embed // heads,
            ffn=required(config, "intermediate_size"),
            rope_theta=float(10000.0 if theta is None else theta),
            rope_scaling=read_rope_scaling(rope),
            rms_eps=float(config.get("rms_norm_eps", 1e-6)),
            tied=False if tied is None else bool(tied),
            qkv_bias=family == "qwen2",
            qk_norm=family == "qwen3",
            max_position=config.get("max_position_embeddings") or 2048,
            bos=config.get("bos_token_id"),
            eos=() if eos is None else (eos,) if isinstance(eos, int) else tuple(eos),
            pad=config.get("pad_token_id"),
            scan_layers=scan_layers,
        )

    def to_hf(self) -> dict[str, Any]:
        """The Hugging Face `config.json` dictionary of this model, for transformers 4 and 5."""
        config: dict[str, Any] = {
            "architectures": [FAMILIES[self.family]],
            "model_type": self.family,
            "vocab_size": self.vocab_size,
            "hidden_size": self.embed,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.ffn,
            "hidden_act": "silu",
            "rope_theta": self.rope_theta,
            "rope_scaling": None,
            "rms_norm_eps": self.rms_eps,
            "tie_word_embeddings": self.tied,
            "max_position_embeddings": self.max_position,
            "bos_token_id": self.bos,
            "eos_token_id": list(self.eos) if len(self.eos) > 1 else self.eos[0] if self.eos else None,
            "pad_token_id": self.pad,
        }
        if self.rope_scaling is not None:
            scaling = dataclasses.asdict(self.rope_scaling)
            scaling["original_max_position_embeddings"] = scaling.pop("original_max_position")
            config["rope_scaling"] = {"rope_type": "llama3", **scaling}
        if self.family == "llama":
            config |= {"attention_bias": False, "mlp_bias": False}
        elif self.family == "qwen3":
            config |= {"attention_bias": False, "use_sliding_window": False}
        else:
            config |= {"use_sliding_window": False}
        return config


def required(config: Mapping[str, Any], key: str) -> int:
    """A whole number that the config must have."""
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"model config: {key} is {value!r}; a whole number is needed, is this a complete config.json?")
    return value


def refuse_unsupported(config: Mapping[str, Any]) -> None:
    """Raise UserError for the first setting that changes the arithmetic in a way the decoder does not follow."""
    wanted = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "use_sliding_window": False}
    wanted |= {"quantization_config": None, "partial_rotary_factor": 1.0, "rope_interleaved": False}
    for key, value in wanted.items():
        if config.get(key) is not None and config[key] != value:
            what = json.dumps(config[key], default=str)[:80]
            raise UserError(f"model config: {key} = {what} is not supported, only {json.dumps(value)}")
    kinds = set(config.get("layer_types") or ()) - {"full_attention"}
    if kinds:
        raise UserError(f"model config: layer_types holds {', '.join(sorted(kinds))}; only full_attention is supported")


def read_rope_scaling(rope: Mapping[str, Any]) -> RopeScaling | None:
    """The Llama 3 stretch, None for plain rotary frequencies; UserError for any other kind."""
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind != "llama3":
        raise UserError(f"model config: rope_scaling of type {kind!r} is not supported, only default and llama3")
    if rope.get("partial_rotary_factor") not in (None, 1.0):
        raise UserError("model config: rope_scaling with a partial_rotary_factor is not supported")
    try:
        return RopeScaling(
            factor=float(rope["factor"]),
            low_freq_factor=float(rope["low_freq_factor"]),
            high_freq_factor=float(rope["high_freq_factor"]),
            original_max_position=int(rope["original_max_position_embeddings"]),
        )
    except KeyError as error:
        raise UserError(f"model config: rope_scaling of type llama3 lacks {error.args[0]}") from error
