"""Tiny models with random weights, as Hugging Face tensors and as GGUF files."""

import functools
from pathlib import Path

import gguf
import numpy as np
from tokenizers import pre_tokenizers

from mvjax.models.hf_config import normalised, read
from mvjax.models.tensors import expected_shapes

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_config(family="llama", *, tied=True, **changes):
    """A normalised Hugging Face configuration, 2 layers wide enough for every GGUF block size."""
    config = {
        "model_type": family,
        "vocab_size": 260,
        "hidden_size": 256,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "hidden_act": "silu",
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100000.0,
        "tie_word_embeddings": tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    return normalised(config | changes, "tiny")


def tiny_tensors(config, seed=0, dtype=np.float32):
    """Random tensors of a configuration under their Hugging Face names, every number of size 1.

    What is computed with them is ill-conditioned: attention then picks one key, by logits of some hundreds. Compare
    logits with `conditioned` ones.
    """
    rng = np.random.default_rng(seed)
    shapes = expected_shapes(read(config, "tiny"))
    return {name: rng.standard_normal(shape, dtype=np.float32).astype(dtype) for name, shape in shapes.items()}


def conditioned(tensors):
    """The same tensors with matrices that keep the size of what they are multiplied with, as initialised ones do."""
    return {name: x * np.float32(x.shape[1] ** -0.5) if x.ndim == 2 else x for name, x in tensors.items()}


def permuted(rows, heads):
    """What llama.cpp's converter does to Q and K of Llama models."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


@functools.cache
def name_map(family):
    """GGUF names of a family's tensors, as the `gguf` package has them; it takes a tenth of a second to make one."""
    architecture = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == family)
    return gguf.get_tensor_name_map(architecture, 64)


def gguf_name(name, family):
    """The GGUF name of a Hugging Face tensor."""
    return name_map(family).get_name(name, try_suffixes=(".weight", ".bias"))


def write_gguf_model(path: Path, config, tensors, *, kind="F32", raw=(), extra=(), change=None, skip=()):
    """Write a GGUF model; matrices are stored as `kind` where their rows are whole blocks, else as F32.

    raw: {Hugging Face name: bytes as uint8 rows} of that kind. extra: {GGUF name: array}. change(writer): more
    metadata. skip: metadata keys, without the architecture, to leave out.
    """
    family, raw, extra = config["model_type"], dict(raw), dict(extra)
    writer = gguf.GGUFWriter(path, family)
    fields = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": config["head_dim"],
    }
    for key, number in fields.items():
        if key not in skip:
            writer.add_uint32(f"{family}.{key}", number)
    writer.add_float32(f"{family}.attention.layer_norm_rms_epsilon", config["rms_norm_eps"])
    writer.add_float32(f"{family}.rope.freq_base", config["rope_theta"])
    add_vocabulary(writer, config["vocab_size"])
    if change:
        change(writer)
    storage = gguf.GGMLQuantizationType[kind]
    block = gguf.GGML_QUANT_SIZES[storage][0]
    for name, array in tensors.items():
        if name in raw:
            writer.add_tensor(gguf_name(name, family), raw[name], raw_dtype=storage)
            continue
        if family == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            array = permuted(array, heads)
        array = np.ascontiguousarray(array, dtype=np.float32)
        if kind in ("F32", "F16") and array.ndim == 2:
            writer.add_tensor(gguf_name(name, family), array.astype(np.float32 if kind == "F32" else np.float16))
        elif array.ndim == 2 and array.shape[1] % block == 0 and not raw:
            writer.add_tensor(gguf_name(name, family), gguf.quants.quantize(array, storage), raw_dtype=storage)
        else:
            writer.add_tensor(gguf_name(name, family), array)
    for name, array in extra.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_vocabulary(writer, size):
    """Three special tokens, the byte-level alphabet and one merged pair, cut or filled up to `size`."""
    tokens = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    tokens = (tokens + [f"<unused{i}>" for i in range(size - len(tokens))])[:size]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<") and len(token) > 1 else 1 for token in tokens])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
