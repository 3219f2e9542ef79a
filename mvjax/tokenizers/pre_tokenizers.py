"""How byte-level vocabularies cut text before they merge: pre-tokenizers by the name that GGUF files give them.

Sources: the published tokenizer.json of each model, and llama.cpp (`llama-vocab.cpp`), which says which names mean the
same. Two of its names are left out: "gemma4", whose vocabulary is not one of bytes, and "afmoe", for which no published
pattern was found.
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


def _cased(numbers: str, contractions: str = "") -> str:
    """Words are cut where a capital follows a small letter."""
    words = f"{_FRONT}{_UPPER}*{_LOWER}+{contractions}|{_FRONT}{_UPPER}+{_LOWER}*{contractions}"
    return rf"{words}|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"


def _class(codes: str) -> str:
    """A class of characters, by their numbers and ranges of these."""
    ranges = (code.partition("-") for code in codes.split())
    return (
        "["
        + "".join(chr(int(first, 16)) + (f"-{chr(int(last, 16))}" if last else "") for first, _, last in ranges)
        + "]"
    )


_DIGITS = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level(True)]}
_THREES = _words(r"\p{N}{1,3}")
_HAN_AND_KANA = "[一-龥぀-ゟ゠-ヿ]+"
_CJK = "[一-龥ࠀ-一가-\ud7ff]+"
_DEEPSEEK = _split(
    r"\p{N}{1,3}",
    _HAN_AND_KANA,
    rf"{_PUNCTUATED}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}",
)
_CODER = _split(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}")
_LETTERS = _class(
    "41-5a 61-7a b5 c0-d6 d8-f6 f8-1ba 1bc-1bf 1c4-293 295-2af 370-373 376 377 37b-37d 37f 386 388-38a 38c 38e-3a1 "
    "3a3-3f5 3f7-481 48a-52f 531-556 10a0-10c5 13a0-13f5 13f8-13fd 1c90-1cba 1cbd-1cbf 1d00-1d2b 1d6b-1d77 1d79-1d9a "
    "1e00-1f15 1f18-1f1d 1f20-1f45 1f48-1f4d 1f50-1f57 1f59 1f5b 1f5d 1f5f-1f7d 1f80-1fb4 1fb6-1fbc 1fbe 1fc2-1fc4 "
    "1fc6-1fcc 1fd0-1fd3 1fd6-1fdb 1fe0-1fec 1ff2-1ff4 1ff6-1ffc 2102 2107 210a-2113 2115 2119-211d 2124 2126 2128 "
    "212a-212d 212f-2134 2139 213c-213f 2145-2149 214e 2183 2184 2c00-2c7b 2c7e-2ce4 2ceb-2cee 2cf2 2cf3 a640-a66d "
    "a680-a69b a722-a76f a771-a787 a78b-a78e ab70-abbf fb00-fb06 fb13-fb17 ff21-ff3a ff41-ff5a 10400-1044f 104b0-104d3 "
    "104d8-104fb 10c80-10cb2 10cc0-10cf2 118a0-118df 1e900-1e943"
)
_MARKS = _class("21-2f 3a-7e ff01-ff0f ff1a-ff5e 2018-201f 3000-3002")
_DEEPSEEK_LLM = _split(r"[\r\n]", rf"\s?{_LETTERS}+", rf"\s?{_MARKS}+", r"\s+$", _CJK, r"\p{N}")
_FALCON = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Punctuation", "behavior": "Contiguous"},
        byte_level(True),
        {"type": "Digits", "individual_digits": False},
        {"type": "Split", "pattern": {"Regex": "[0-9][0-9][0-9]"}, "behavior": "Isolated", "invert": False},
    ],
}
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_CHAMELEON = {
    "type": "Sequence",
    "pretokenizers": [
        *_split(
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            "([\\t\\n]|    |  )",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
        )["pretokenizers"][:-1],
        byte_level(True),
    ],
}
_NOT_HAN = {kind: f"{kind[:-1]}&&[^\\p{{Han}}]]" for kind in (_UPPER, _LOWER)}
_KIMI = "|".join(
    [
        r"[\p{Han}]+",
        f"{_FRONT}{_NOT_HAN[_UPPER]}*{_NOT_HAN[_LOWER]}+{_CONTRACTIONS}?",
        f"{_FRONT}{_NOT_HAN[_UPPER]}+{_NOT_HAN[_LOWER]}*{_CONTRACTIONS}?",
        r"\p{N}{1,3}",
        _REST,
    ]
)
_CASCADE = "|".join(
    [*(rf"\s{{{count}}}(?!\S)" for count in (512, 256, 128, 64, 32, 16, 8, 4)), r"\s{1,2}(?!\S)", r"\s"]
)
_JAIS = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|{_CASCADE}"
_QWEN35 = rf"{_CONTRACTIONS}|{_FRONT}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
_BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
_EXAONE_MOE = (
    rf"{_CONTRACTIONS}|{_FRONT}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
_YOUTU = f"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，{_class('3001-303f fe30-fe4f')[1:-1]}]+|[ㄅ-ㄯ]+|{_HAN_AND_KANA}"
_GPT4O = _cased(r"\p{N}{1,3}", f"{_CONTRACTIONS}?")
_SEED = _split(rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}")
_GROUPS: dict[tuple[str, ...], PreTokenizer] = {
    ("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "mellum", "gigachat", "exaone4", "a.x-4.0",
     "modern-bert", "granite-docling"):
        PreTokenizer(byte_level(True)),
    ("jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code", "roberta-bpe"):
        PreTokenizer(byte_level(True)),
    ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"): PreTokenizer(_DIGITS),
    ("qwen2", "deepseek-r1-qwen", "megrez", "kormo", "f2llmv2", "stablelm2"): PreTokenizer(_words(r"\p{N}"), _NFC),
    ("hunyuan", "grok-2", "solar-open"): PreTokenizer(_words(r"\p{N}")),
    ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
     "jina-v5-nano"):
        PreTokenizer(_THREES, ignore_merges=True),
    ("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"): PreTokenizer(_THREES),
    ("tekken",): PreTokenizer(_split(_cased(r"\p{N}")), ignore_merges=True),
    ("gpt-4o", "llama4", "minimax-m2", "kanana2"): PreTokenizer(_split(_GPT4O)),
    ("tiny_aya",): PreTokenizer(_split(r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O)),
    ("youtu",): PreTokenizer(_split(_YOUTU, _cased(r"\p{N}", f"{_CONTRACTIONS}?")), ignore_merges=True),
    ("kimi-k2",): PreTokenizer(_split(_KIMI)),
    ("deepseek-v3", "hunyuan-dense", "joyai-llm"): PreTokenizer(_DEEPSEEK),
    ("deepseek-llm",): PreTokenizer(_DEEPSEEK_LLM),
    ("deepseek-coder",): PreTokenizer(_CODER),
    ("seed-coder",): PreTokenizer(_SEED),
    ("falcon",): PreTokenizer(_FALCON),
    ("bloom", "poro-chat", "gpt3-finnish"): PreTokenizer(_split(_BLOOM)),
    ("viking",): PreTokenizer(_split(_BLOOM, r"\p{N}")),
    ("chameleon",): PreTokenizer(_CHAMELEON),
    ("bailingmoe", "bailingmoe2", "llada-moe"): PreTokenizer(_split(_BAILING)),
    ("exaone-moe",): PreTokenizer(_split(_EXAONE_MOE)),
    ("jais-2",): PreTokenizer(_split(_JAIS)),
    ("qwen35",): PreTokenizer(_split(_QWEN35), _NFC),
    ("superbpe",): PreTokenizer(_split(r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
}  # fmt: skip
PRE_TOKENIZERS: dict[str, PreTokenizer] = {name: kind for names, kind in _GROUPS.items() for name in names}
"""Pre-tokenizers by the name that GGUF files give them."""
