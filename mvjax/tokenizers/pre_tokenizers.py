"""How byte-level vocabularies cut text before they merge: pre-tokenizers by the name that GGUF files give them.

Sources: the published tokenizer.json of each model, and llama.cpp (`llama-vocab.cpp`), which says which names mean the
same.
"""

from typing import Any, NamedTuple

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_REST = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_FRONT = r"[^\r\n\p{L}\p{N}]?"
_PUNCTUATED = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
_NFC = {"type": "NFC"}


class PreTokenizer(NamedTuple):
    """How text is cut into words."""

    words: dict[str, Any]
    """The pre-tokenizer, as tokenizer.json has it."""
    normalizer: dict[str, Any] | None = None
    """What is done to the text before."""
    ignore_merges: bool = False
    """Words that are in the vocabulary as a whole are not put together by merges."""


def byte_level(use_regex: bool) -> dict[str, Any]:
    """Bytes as printable characters; with `use_regex` also GPT-2's cuts."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(*patterns: str) -> dict[str, Any]:
    """Cut at each pattern in turn, what matches stands alone."""
    cuts = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in patterns
    ]
    return {"type": "Sequence", "pretokenizers": [*cuts, byte_level(False)]}


def _words(numbers: str) -> dict[str, Any]:
    return _split(f"{_CONTRACTIONS}|{_WORDS}|{numbers}|{_REST}")


def _cased(numbers: str, contractions: str = "") -> dict[str, Any]:
    """Words are cut where a capital follows a small letter."""
    words = f"{_FRONT}{_UPPER}*{_LOWER}+{contractions}|{_FRONT}{_UPPER}+{_LOWER}*{contractions}"
    return _split(rf"{words}|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}")


_DIGITS = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level(True)]}
_THREES = _words(r"\p{N}{1,3}")
_DEEPSEEK = _split(
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    rf"{_PUNCTUATED}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}",
)
_CODER = _split(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}")
_SEED = _split(rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}")
_GROUPS: dict[tuple[str, ...], PreTokenizer] = {
    ("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "mellum", "gigachat", "exaone4", "a.x-4.0"):
        PreTokenizer(byte_level(True)),
    ("jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code", "roberta-bpe"):
        PreTokenizer(byte_level(True)),
    ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"): PreTokenizer(_DIGITS),
    ("qwen2", "deepseek-r1-qwen", "megrez", "kormo", "f2llmv2", "stablelm2"): PreTokenizer(_words(r"\p{N}"), _NFC),
    ("hunyuan", "grok-2"): PreTokenizer(_words(r"\p{N}")),
    ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"):
        PreTokenizer(_THREES, ignore_merges=True),
    ("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"): PreTokenizer(_THREES),
    ("tekken",): PreTokenizer(_cased(r"\p{N}"), ignore_merges=True),
    ("gpt-4o", "llama4", "minimax-m2"): PreTokenizer(_cased(r"\p{N}{1,3}", f"{_CONTRACTIONS}?")),
    ("deepseek-v3", "hunyuan-dense"): PreTokenizer(_DEEPSEEK),
    ("deepseek-coder",): PreTokenizer(_CODER),
    ("seed-coder",): PreTokenizer(_SEED),
    ("superbpe",): PreTokenizer(_split(r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
}  # fmt: skip
PRE_TOKENIZERS: dict[str, PreTokenizer] = {name: kind for names, kind in _GROUPS.items() for name in names}
"""Pre-tokenizers by the name that GGUF files give them."""
