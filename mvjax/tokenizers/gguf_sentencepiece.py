"""A SentencePiece vocabulary inside a GGUF file, as the content of a SentencePiece model file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvjax.errors import UserError
from mvjax.tokenizers import sentencepiece_schema as schema

BYTES = {f"<0x{byte:02X}>" for byte in range(256)}
"""The pieces that spell what the vocabulary has no other piece for."""


def sentencepiece_model(path: Path, data: Mapping[str, Any], tokens: list[str], kinds: list[int]) -> bytes:
    """The model file of a BPE vocabulary by SentencePiece (`tokenizer.ggml.model` is "llama").

    Args:
        path: named in errors.
        data: the key-value header.
        tokens: the pieces by id, padding left out.
        kinds: their types, the numbers of SentencePiece and GGUF alike. Pieces of single bytes are known by their
            spelling, since some converters call them normal ones.
    Raises:
        UserError: two pieces of one spelling, too few scores, or no unknown piece.
    """
    scores = data.get("tokenizer.ggml.scores") or [-float(i) for i in range(len(tokens))]
    if len(set(tokens)) != len(tokens) or len(scores) < len(tokens):
        raise UserError(f"{path}: two tokens of its vocabulary are spelt alike or lack a score; the file is damaged")
    unknown, template = unknown_id(path, data, tokens, kinds), data.get("tokenizer.chat_template") or ""
    fallback = set(tokens) >= BYTES
    model = schema.Model()
    for i, (token, kind) in enumerate(zip(tokens, kinds)):
        if i == unknown:
            kind = schema.UNKNOWN
        elif fallback and token in BYTES:
            kind = schema.BYTE
        elif kind in (schema.UNKNOWN, schema.BYTE):
            kind = schema.NORMAL
        elif kind == schema.USER_DEFINED and token in template:
            kind = schema.CONTROL  # the structure of a chat, which no text may spell
        model.pieces.add(piece=token or f"[EMPTY_{i}]", score=scores[i], type=kind)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type, trainer.byte_fallback, trainer.unk_id = schema.BPE, fallback, unknown
    for name, key in {"bos_id": "bos", "eos_id": "eos", "pad_id": "padding"}.items():
        index = data.get(f"tokenizer.ggml.{key}_token_id")
        setattr(trainer, name, index if index is not None and index < len(tokens) and index != unknown else -1)
    normalizer.add_dummy_prefix = bool(data.get("tokenizer.ggml.add_space_prefix", True))
    normalizer.remove_extra_whitespaces = bool(data.get("tokenizer.ggml.remove_extra_whitespaces", False))
    if charsmap := data.get("tokenizer.ggml.precompiled_charsmap"):
        normalizer.precompiled_charsmap = bytes(byte & 0xFF for byte in charsmap)
    return model.SerializeToString()


def unknown_id(path: Path, data: Mapping[str, Any], tokens: list[str], kinds: list[int]) -> int:
    """The piece that stands for what cannot be spelt; a SentencePiece model has exactly one."""
    index = data.get("tokenizer.ggml.unknown_token_id")
    if index is not None and 0 <= index < len(tokens):
        return index
    if schema.UNKNOWN in kinds:
        return kinds.index(schema.UNKNOWN)
    if "<unk>" in tokens:
        return tokens.index("<unk>")
    raise UserError(f"{path}: its vocabulary has no unknown token; give --tokenizer, the model's own tokenizer files")
