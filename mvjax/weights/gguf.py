"""GGUF models: metadata to a Hugging Face configuration, tensors dequantised (by the `gguf` package) on reading.

llama.cpp stores the Q and K rows of Llama models in another order (rotary pairs beside each other, not half a head
apart); that is undone here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

from mvjax.errors import UserError
from mvjax.weights.architecture import ARCHITECTURES, check, counted, normalised
from mvjax.weights.checkpoint import Checkpoint, LazyTensor, LazyTensors
from mvjax.weights.gguf_header import Header, TensorInfo, read_header

PLAIN = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
QUANTISED = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")

TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
HEADS = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
ROPE_FACTORS = "rope_freqs.weight"


def load_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file of architecture llama, qwen2 or qwen3; tensors are dequantised when asked for.

    F32, F16 and BF16 keep their type, quantised tensors become float32. Raises `UserError` for a truncated file, an
    unsupported architecture or quantisation, missing tensors or wrong shapes.
    """
    header = read_header(path)
    config = config_from(header, path)
    stored = read_tensors(header, path)
    if ROPE_FACTORS in stored:
        config["rope_scaling"] = llama3_scaling(stored.pop(ROPE_FACTORS).read(), config, path)
    entries = {}
    for name, tensor in stored.items():
        target, heads_key = huggingface_name(name)
        if target is None:
            raise UserError(f"{path}: tensor {name} belongs to no {config['model_type']} model that mvjax knows")
        permuted = config["model_type"] == "llama" and heads_key is not None
        entries[target] = unpermuted_tensor(tensor, config[heads_key]) if permuted else tensor
    checkpoint = Checkpoint(config, LazyTensors(entries), path, generation_from(header.metadata))
    check(checkpoint)
    return checkpoint


def config_from(header: Header, path: Path) -> dict[str, Any]:
    """Normalised Hugging Face configuration of a GGUF header (without the rotary scaling that is kept as a tensor)."""
    shapes = {info.name: info.shape for info in header.tensors}
    family = header.metadata.get("general.architecture")
    if family not in ARCHITECTURES:
        raise UserError(f"{path}: architecture {family!r} is not supported: use one of {', '.join(ARCHITECTURES)}")

    def value(key: str, default: Any = None) -> Any:
        found = header.metadata.get(f"{family}.{key}", default)
        if isinstance(found, list):
            raise UserError(f"{path}: {family}.{key} differs between layers, which is not supported")
        # Metadata are float32: the shortest decimal that names the number is the one that was meant.
        return float(str(np.float32(found))) if isinstance(found, float) else found

    if value("expert_count", 0):
        raise UserError(f"{path}: mixtures of experts are not supported")
    if "token_embd.weight" not in shapes:
        raise UserError(f"{path}: 1 tensor missing: token_embd.weight; fetch the model again")
    config = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "vocab_size": shapes["token_embd.weight"][0],
        "hidden_size": value("embedding_length"),
        "intermediate_size": value("feed_forward_length"),
        "num_hidden_layers": value("block_count"),
        "num_attention_heads": value("attention.head_count"),
        "num_key_value_heads": value("attention.head_count_kv"),
        "head_dim": value("attention.key_length", value("rope.dimension_count")),
        "hidden_act": "silu",
        "max_position_embeddings": value("context_length", 2048),
        "rms_norm_eps": value("attention.layer_norm_rms_epsilon", 1e-6),
        "rope_theta": value("rope.freq_base", 10000.0),
        "rope_scaling": None,
        "tie_word_embeddings": "output.weight" not in shapes,
        "torch_dtype": "float32",
    }
    if family != "qwen2":
        config["attention_bias"] = "blk.0.attn_q.bias" in shapes
    if (kind := value("rope.scaling.type", "none")) != "none":
        config["rope_scaling"] = {"rope_type": kind, "factor": value("rope.scaling.factor", 1.0)}
        if original := value("rope.scaling.original_context_length"):
            config["rope_scaling"]["original_max_position_embeddings"] = original
    for key, name in {"bos": "bos_token_id", "eos": "eos_token_id", "padding": "pad_token_id"}.items():
        if (number := header.metadata.get(f"tokenizer.ggml.{key}_token_id")) is not None:
            config[name] = number
    return normalised(config, path)


def generation_from(metadata: dict[str, Any]) -> dict[str, Any]:
    """Keys of `generation_config.json`: the special ids, all that end a text or a turn among the ends."""
    number = {key: metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("bos", "eos", "eot", "eom", "padding")}
    ends = list(dict.fromkeys(number[key] for key in ("eos", "eot", "eom") if number[key] is not None))
    found = {
        "bos_token_id": number["bos"],
        "eos_token_id": ends if ends[1:] else next(iter(ends), None),
        "pad_token_id": number["padding"],
    }
    return {key: value for key, value in found.items() if value is not None}


def llama3_scaling(factors_h: Shaped[np.ndarray, "h"], config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Llama 3's rotary scaling, which GGUF keeps as the number that each of the H/2 frequencies is divided by.

    The four parameters cannot all be read off the factors: those of the released models are assumed and compared.
    """
    scaling = {
        "rope_type": "llama3",
        "factor": float(factors_h.max()),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    expected_h = llama3_factors(scaling, config["rope_theta"], config["head_dim"])
    if factors_h.shape != expected_h.shape or not np.allclose(factors_h, expected_h, rtol=1e-4):
        raise UserError(f"{path}: {ROPE_FACTORS} holds rotary factors other than Llama 3's, which is not supported")
    return scaling


def llama3_factors(scaling: dict[str, Any], theta: float, head_dim: int) -> Shaped[np.ndarray, "h"]:
    """What Llama 3's rotary scaling divides each frequency by: 1 for short waves, `factor` for long ones."""
    wavelength_h = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth_h = (scaling["original_max_position_embeddings"] / wavelength_h - low) / (high - low)
    smooth_h = np.clip(smooth_h, 0.0, 1.0)
    return 1.0 / ((1.0 - smooth_h) / scaling["factor"] + smooth_h)


def huggingface_name(name: str) -> tuple[str | None, str | None]:
    """Hugging Face name of a GGUF tensor, and the configuration key of its number of heads if its rows are rotated.

    `blk.3.attn_q.weight` -> (`model.layers.3.self_attn.q_proj.weight`, `num_attention_heads`); None where unknown.
    """
    if match := re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name):
        number, part, kind = match.groups()
        return (f"model.layers.{number}.{LAYER[part]}.{kind}" if part in LAYER else None), HEADS.get(part)
    part, _, kind = name.partition(".")
    return (f"{TOP[part]}.weight" if part in TOP and kind == "weight" else None), None


def read_tensors(header: Header, path: Path) -> dict[str, LazyTensor]:
    """Lazy tensors under their GGUF names. `UserError` for a storage type not supported or bytes that are not there."""
    import gguf

    types = {kind.value: kind for kind in gguf.GGMLQuantizationType}
    names = {info.name: types[info.kind].name if info.kind in types else str(info.kind) for info in header.tensors}
    if unsupported := {name: kind for name, kind in names.items() if kind not in PLAIN and kind not in QUANTISED}:
        kinds, known = ", ".join(sorted(set(unsupported.values()))), ", ".join([*PLAIN, *QUANTISED])
        what = counted(list(unsupported))
        raise UserError(f"{path}: quantisation {kinds} ({what}) is not supported: use a file with {known}")
    size, tensors = path.stat().st_size, {}
    for info in header.tensors:
        kind = types[info.kind]
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        elements = int(np.prod(info.shape, dtype=object))
        if not info.shape or info.shape[-1] % block:
            raise UserError(f"{path}: tensor {info.name} has shape {info.shape}, no multiple of {kind.name}'s {block}")
        end = info.offset + elements // block * block_bytes
        if end > size:
            raise UserError(f"{path} is truncated: {size} bytes, {info.name} ends at {end}; fetch it again")
        tensors[info.name] = stored(path, info, kind, end - info.offset)
    return tensors


def stored(path: Path, info: TensorInfo, kind: Any, length: int) -> LazyTensor:
    """The lazy tensor of `length` bytes that a header describes."""
    import gguf

    def read(offset: int, length: int, shape: tuple[int, ...]) -> np.ndarray:
        raw = np.fromfile(path, dtype=np.uint8, count=length, offset=info.offset + offset)
        if raw.size != length:
            raise UserError(f"{path} was cut short while it was being read")
        if kind.name in PLAIN:
            return raw.view(PLAIN[kind.name]).reshape(shape)
        return gguf.quants.dequantize(raw.reshape(*shape[:-1], -1), kind).reshape(shape)

    def rows(start: int, stop: int) -> np.ndarray:
        row = length // info.shape[0]
        return read(start * row, (stop - start) * row, (stop - start, *info.shape[1:]))

    def whole() -> np.ndarray:
        return read(0, length, info.shape)

    dtype = PLAIN.get(kind.name, np.dtype(np.float32))
    # A quantised vector is one row of blocks: no block begins at each of its elements.
    in_rows = info.shape[0] > 0 and (len(info.shape) > 1 or kind.name in PLAIN)
    return LazyTensor(info.shape, dtype, whole, rows if in_rows else None)


def unpermuted_tensor(tensor: LazyTensor, heads: int) -> LazyTensor:
    """A lazy Q or K tensor in Hugging Face's order of rows."""

    def rows(start: int, stop: int) -> np.ndarray:
        # Rows change places within their head alone: whole heads are read, then cut.
        width = tensor.shape[0] // heads
        first, last = start // width, -(-stop // width)
        whole = unpermuted(tensor.read_rows(first * width, last * width), last - first)
        return whole[start - first * width :][: stop - start]

    in_rows = rows if tensor.read_rows else None
    return LazyTensor(tensor.shape, tensor.dtype, lambda: unpermuted(tensor.read(), heads), in_rows)


def unpermuted(rows: Shaped[np.ndarray, "NH *in"], heads: int) -> Shaped[np.ndarray, "NH *in"]:
    """Rows (or biases) of Q or K: rotary pairs (0, 1), (2, 3), ... become (0, H/2), (1, H/2 + 1), ..."""
    grouped = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return np.ascontiguousarray(grouped.swapaxes(1, 2).reshape(rows.shape))
