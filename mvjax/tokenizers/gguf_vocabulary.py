"""The vocabulary inside a GGUF file: byte-level BPE, as a Hugging Face tokenizer definition, or SentencePiece's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mvjax.errors import UserError, caution
from mvjax.tokenizers.gguf_metadata import vocabulary_metadata
from mvjax.tokenizers.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer, byte_level

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of tokens, the same numbers as SentencePiece's."""
ARCHITECTURES = {"llama": "llama-bpe", "qwen2": "qwen2", "qwen3": "qwen2", "olmo2": "dbrx"}
"""Pre-tokenizer of most models of an architecture, for files that name none."""


WAY_OUT = "give --tokenizer, the directory of the model's tokenizer.json or its .model file"


def read_vocabulary(path: Path) -> tuple[dict[str, Any] | bytes, dict[str, Any]]:
    """The vocabulary of a GGUF file; of a split model, given any part.

    Args:
        path: the file.
    Returns:
        (vocabulary, settings): what tokenizer.json and tokenizer_config.json would hold; a SentencePiece vocabulary as
        the bytes of its model file. Unused ids at the end (rows that pad the embedding matrix) are left out: they are
        free for control tags.
    Raises:
        UserError: unreadable file, no vocabulary in it, or a kind of vocabulary or pre-tokenizer that is not supported.
    """
    data = vocabulary_metadata(path)
    kind, tokens = data.get("tokenizer.ggml.model"), data.get("tokenizer.ggml.tokens")
    if kind is None or not tokens:
        raise UserError(f"{path}: holds no vocabulary; {WAY_OUT}")
    kinds = data.get("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    if len(kinds) != len(tokens):
        raise UserError(f"{path}: {len(tokens)} tokens but {len(kinds)} token types; the file is damaged")
    size = max((i + 1 for i, k in enumerate(kinds) if k != UNUSED), default=0)
    tokens, kinds = tokens[:size], kinds[:size]
    if kind == "llama":
        from mvjax.tokenizers.gguf_sentencepiece import sentencepiece_model

        return sentencepiece_model(path, data, tokens, kinds), settings_from(data, tokens)
    if kind != "gpt2" or "tokenizer.ggml.merges" not in data:
        raise UserError(
            f"{path}: its vocabulary is of kind {kind!r}; byte-level BPE (gpt2, with merges) and SentencePiece (llama) "
            f"are read from GGUF: {WAY_OUT}"
        )
    return byte_level_definition(path, data, tokens, kinds), settings_from(data, tokens)


def pre_tokenizer_of(path: Path, data: Mapping[str, Any]) -> PreTokenizer:
    """The file's pre-tokenizer; where it names none, that of its architecture, with a warning."""
    name = data.get("tokenizer.ggml.pre", "default")
    if name == "default":  # what converters write for models that they do not know
        architecture = data.get("general.architecture")
        name = ARCHITECTURES.get(str(architecture), "gpt-2")
        caution(
            f"{path} does not say how its vocabulary cuts text (no tokenizer.ggml.pre): it is read as {name}, as most "
            f"{architecture} models are; if answers are poor, {WAY_OUT}"
        )
    if name not in PRE_TOKENIZERS:
        raise UserError(f"{path}: how the pre-tokenizer {name!r} cuts text is not known to mvjax; {WAY_OUT}")
    return PRE_TOKENIZERS[name]


def byte_level_definition(
    path: Path, data: Mapping[str, Any], tokens: Sequence[str], kinds: Sequence[int]
) -> dict[str, Any]:
    """A byte-level BPE vocabulary as the content of tokenizer.json."""
    pre = pre_tokenizer_of(path, data)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise UserError(f"{path}: two tokens of its vocabulary are spelt alike; the file is damaged")
    # The first character may itself be the separator of the two halves, so the search starts after it.
    cuts = [(merge, merge.find(" ", 1)) for merge in data["tokenizer.ggml.merges"]]
    merges = [[merge[:cut], merge[cut + 1 :]] for merge, cut in cuts]
    for left, right in merges:
        if left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
            raise UserError(f"{path}: merge {left!r} {right!r} does not fit its vocabulary; the file is damaged")
    added = [
        {
            "id": i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kinds[i] != USER_DEFINED,
        }
        for i, token in enumerate(tokens)
        if kinds[i] in (CONTROL, UNKNOWN, USER_DEFINED)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": pre.normalizer,
        "pre_tokenizer": pre.words,
        "post_processor": None,
        "decoder": byte_level(True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre.ignore_merges,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def settings_from(data: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any]:
    """The keys of tokenizer_config.json: special tokens by role, and the chat template."""

    def token(key: str) -> str | None:
        index = data.get(f"tokenizer.ggml.{key}_token_id")
        return tokens[index] if index is not None and 0 <= index < len(tokens) else None

    settings = {
        "bos_token": token("bos"),
        "eos_token": token("eos"),
        "pad_token": token("padding"),
        "unk_token": token("unknown"),
        "chat_template": data.get("tokenizer.chat_template"),
    }
    if token("eot"):
        settings["eot_token"] = token("eot")
    return settings
