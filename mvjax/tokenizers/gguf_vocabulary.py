"""The vocabulary inside a GGUF file, as a Hugging Face tokenizer definition.

Only the key-value header is read: a few hundred milliseconds for 50,000 tokens, where a reader that maps the whole
file takes seconds. The layout is that of the GGUF specification, versions 2 and 3, little endian.
"""

import struct
from pathlib import Path
from typing import Any, BinaryIO

from mvjax.errors import UserError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_LONGEST = 1 << 31

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(numbers: str) -> dict[str, Any]:
    pattern = {"Regex": f"{_CONTRACTIONS}|{_WORDS}|{numbers}|{_REST}"}
    cut = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [cut, _byte_level(False)]}


_DIGITS = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, _byte_level(True)]}

# name in the file -> (normalizer, pre-tokenizer, whole words found in the vocabulary are not merged)
PRE_TOKENIZERS: dict[str, tuple[dict[str, Any] | None, dict[str, Any], bool]] = {
    "default": (None, _byte_level(True), False),
    "gpt-2": (None, _byte_level(True), False),
    "smollm": (None, _DIGITS, False),
    "qwen2": ({"type": "NFC"}, _split(r"\p{N}"), False),
    "llama-bpe": (None, _split(r"\p{N}{1,3}"), True),
}
"""Pre-tokenizers by the name GGUF files give them."""


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The key-value header of a GGUF file.

    Args:
        path: the file.
    Returns:
        The values by key; arrays are lists, strings are str.
    Raises:
        UserError: no such file, not a GGUF file, an unknown version, or cut short.
    """
    try:
        with open(path, "rb") as file:
            return _Header(file, Path(path)).read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None


class _Header:
    def __init__(self, file: BinaryIO, path: Path):
        self.file, self.path = file, path

    def read(self) -> dict[str, Any]:
        if self._take(4) != b"GGUF":
            raise UserError(f"{self.path}: not a GGUF file; give a .gguf, a .model or a directory with tokenizer.json")
        version = self._scalar("I")
        if version not in (2, 3):
            raise UserError(
                f"{self.path}: GGUF version {version} is not supported (2 and 3 are); convert the file again"
            )
        _, entries = self._scalar("Q"), self._scalar("Q")
        return {self._string(): self._value(self._scalar("I")) for _ in range(entries)}

    def _take(self, count: int) -> bytes:
        data = self.file.read(count) if count < _LONGEST else b""
        if len(data) != count:
            raise UserError(f"{self.path}: cut short inside its header, or damaged; fetch the file again")
        return data

    def _scalar(self, letter: str) -> Any:
        return struct.unpack("<" + letter, self._take(struct.calcsize(letter)))[0]

    def _string(self) -> str:
        return self._take(self._scalar("Q")).decode("utf-8", errors="replace")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            element, count = self._scalar("I"), self._scalar("Q")
            if element in _SCALARS:
                letter = _SCALARS[element]
                return list(struct.unpack(f"<{count}{letter}", self._take(count * struct.calcsize(letter))))
            return [self._value(element) for _ in range(count)]
        if kind not in _SCALARS:
            raise UserError(f"{self.path}: unknown value type {kind} in its header; the file is damaged or too new")
        return self._scalar(_SCALARS[kind])


def read_vocabulary(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The byte-level BPE vocabulary of a GGUF file.

    Args:
        path: the file.
    Returns:
        (definition, settings): what tokenizer.json and tokenizer_config.json would hold. Unused ids at the end (rows
        that pad the embedding matrix) are left out: they are free for control tags.
    Raises:
        UserError: unreadable file, no vocabulary in it, or a kind of vocabulary or pre-tokenizer that is not supported.
    """
    data = read_metadata(path)
    kind, tokens = data.get("tokenizer.ggml.model"), data.get("tokenizer.ggml.tokens")
    if kind is None or not tokens:
        raise UserError(f"{path}: holds no vocabulary; give the tokenizer's own directory (tokenizer.json) as well")
    if kind != "gpt2" or "tokenizer.ggml.merges" not in data:
        raise UserError(
            f"{path}: its vocabulary is of kind {kind!r}; only byte-level BPE (gpt2, with merges) is read from GGUF: "
            "use the model's tokenizer.json or .model file"
        )
    name = data.get("tokenizer.ggml.pre", "default")
    if name not in PRE_TOKENIZERS:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise UserError(
            f"{path}: unknown pre-tokenizer {name!r} (known: {known}); use the model's tokenizer.json instead"
        )
    normalizer, pre_tokenizer, ignore_merges = PRE_TOKENIZERS[name]

    kinds = data.get("tokenizer.ggml.token_type", [_NORMAL] * len(tokens))
    if len(kinds) != len(tokens):
        raise UserError(f"{path}: {len(tokens)} tokens but {len(kinds)} token types; the file is damaged")
    size = max((i + 1 for i, k in enumerate(kinds) if k != _UNUSED), default=0)
    vocabulary = {token: i for i, token in enumerate(tokens[:size])}
    if len(vocabulary) != size:
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
            "special": kinds[i] != _USER_DEFINED,
        }
        for i, token in enumerate(tokens[:size])
        if kinds[i] in (_CONTROL, _UNKNOWN, _USER_DEFINED)
    ]
    definition = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": _byte_level(True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": ignore_merges,
            "vocab": vocabulary,
            "merges": merges,
        },
    }

    def token(key: str) -> str | None:
        index = data.get(f"tokenizer.ggml.{key}_token_id")
        return tokens[index] if index is not None and 0 <= index < size else None

    settings = {
        "bos_token": token("bos"),
        "eos_token": token("eos"),
        "pad_token": token("padding"),
        "unk_token": token("unknown"),
        "chat_template": data.get("tokenizer.chat_template"),
    }
    if token("eot"):
        settings["eot_token"] = token("eot")
    return definition, settings
