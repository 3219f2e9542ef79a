"""One tokenizer for all vocabularies: plain text, transcripts with control tags, chats."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mvjax.errors import UserError
from mvjax.files import atomic_path
from mvjax.language.tags import TAGS
from mvjax.tokenizers.backend import Backend, ControlToken
from mvjax.tokenizers.rendering import Rendering
from mvjax.tokenizers.tables import VocabularyTables

NUMBERS = 64
"""Labels "1" to "64" are kept ready for the interpreter."""

_HEADS = {"<Outline>", "<Path>"}
_HEAD = re.compile(r"([0-9]+(?:\.[0-9]+)*):")
# Names under which models are known to end a turn or a text, beside the one that the file declares.
_ENDS = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<end_of_turn>",
    "</s>",
)


DEFAULTS: Mapping[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "clean_up_tokenization_spaces": False,
}
"""Keys that a tokenizer_config.json gets where the tokenizer came without."""
WRITTEN_KEYS = ("bos_token", "eos_token", "pad_token", "unk_token", "eot_token", "other_eos_tokens", "chat_template")
PLACE_KEYS = ("vocabulary_file", "added_tokens_decoder", "auto_map", "tokenizer_file", "name_or_path")
"""Keys that are written anew, and keys that name files or repeat tokens of the place that a tokenizer was read from."""
_ABSENT = object()


@dataclass(frozen=True)
class Settings:
    """What a checkpoint says about its tokenizer apart from the vocabulary."""

    bos: str | None = None
    """Token that begins a text."""
    eos: tuple[str, ...] = ()
    """Tokens that end a text or a turn, the declared one first."""
    pad: str | None = None
    """Token that fills rows."""
    unknown: str | None = None
    """Token for what the vocabulary cannot spell."""
    chat_template: str | None = None
    """Jinja source."""
    others: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Further keys of tokenizer_config.json (tokenizer_class, legacy, add_bos_token, ...): other libraries read them,
    so they are carried along."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any], template: str | None = None) -> "Settings":
        """Reads the keys of tokenizer_config.json; `template` takes precedence over the one in it."""

        def text(key: str) -> str | None:
            value = config.get(key)
            value = value.get("content") if isinstance(value, Mapping) else value
            return value if isinstance(value, str) else None

        stored = config.get("chat_template")
        if isinstance(stored, list):
            stored = {entry.get("name"): entry.get("template") for entry in stored}.get("default")
        ends = (text("eos_token"), text("eot_token"), *(config.get("other_eos_tokens") or ()))
        eos = tuple(dict.fromkeys(end for end in ends if end))
        others = {
            key: value
            for key, value in config.items()
            if key not in (*WRITTEN_KEYS, *PLACE_KEYS) and value != DEFAULTS.get(key, _ABSENT)
        }
        return cls(text("bos_token"), eos, text("pad_token"), text("unk_token"), template or stored, others)

    def to_config(self) -> dict[str, Any]:
        """The keys of tokenizer_config.json."""
        names = {"bos_token": self.bos, "pad_token": self.pad, "unk_token": self.unknown}
        names["eos_token"] = self.eos[0] if self.eos else None
        config: dict[str, Any] = {**DEFAULTS, **self.others}
        config |= {key: value for key, value in names.items() if value is not None}
        if self.eos[1:]:
            config["other_eos_tokens"] = list(self.eos[1:])
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
        return config


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary with control tags and a chat template. Text is encoded exactly: what it spells comes back.

    Two limits come from vocabularies themselves: bytes that a vocabulary has no token for are dropped (SmolLM2 lacks a
    few control characters), as in Hugging Face's tokenizers; and a normaliser (Qwen2's NFC) is applied.
    """

    backend: Backend
    """The vocabulary."""
    settings: Settings = field(default_factory=Settings)
    """Special tokens by role, and the chat template."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, control tags included once added; a model needs at least this many rows."""
        return self.backend.size

    @cached_property
    def tag_ids(self) -> tuple[int, ...] | None:
        """Ids of the twelve control tags in order; None while the vocabulary has no such control tokens."""
        ids = {token.text: token.id for token in self.backend.controls}
        return tuple(ids[tag] for tag in TAGS) if all(tag in ids for tag in TAGS) else None

    def with_control_tags(self) -> "Tokenizer":
        """The tokenizer with the twelve control tags: on ids that it has for them, else on the next free ids."""
        if self.tag_ids is not None:
            return self
        return Tokenizer(self.backend.with_controls(TAGS), self.settings)

    @cached_property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end a text or a turn; the first is the one that training data ends with."""
        controls = {token.text for token in self.backend.controls}
        texts = dict.fromkeys((*self.settings.eos, *(end for end in _ENDS if end in controls)))
        ids = (self.backend.find(text) for text in texts)
        return tuple(dict.fromkeys(i for i in ids if i is not None))

    @property
    def bos_id(self) -> int | None:
        """Token that begins a text, if the vocabulary has one."""
        return None if self.settings.bos is None else self.backend.find(self.settings.bos)

    @property
    def pad_id(self) -> int:
        """Token that fills rows; any will do, so the end of text where none is declared."""
        declared = None if self.settings.pad is None else self.backend.find(self.settings.pad)
        return declared if declared is not None else (self.eos_ids or (0,))[0]

    def encode(self, text: str) -> list[int]:
        """Ids of plain text. Never control tokens: tags and special tokens in it stay text.

        Raises:
            UserError: the text holds half of a surrogate pair, which is no character.
        """
        return self._plain(text, start=True)

    def _plain(self, text: str, *, start: bool = False) -> list[int]:
        if not text:
            return []
        try:
            text.encode()
        except UnicodeEncodeError:
            shown = ascii(text[:40])
            raise UserError(f"text is not valid Unicode (a lone surrogate): {shown}; repair its encoding") from None
        return self.backend.encode(text, start=start)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, control tokens as their literals. Bytes that are no UTF-8 become U+FFFD.

        Raises:
            UserError: an id outside the vocabulary.
        """
        ids = list(map(int, ids))  # NumPy integers too
        data = b"".join(map(self.token_bytes, ids))
        if self.backend.prefix_space and ids and ids[0] not in self.controls and data.startswith(b" "):
            data = data[1:]
        return data.decode("utf-8", errors="replace")

    def token_bytes(self, index: int) -> bytes:
        """The bytes of one token. A character may be spread over several tokens.

        Raises:
            UserError: an id outside the vocabulary.
        """
        if not 0 <= index < self.vocab_size:
            raise UserError(
                f"token {index} is not in the vocabulary of {self.vocab_size}; use the tokenizer of the model"
            )
        return self._pieces[index]

    @cached_property
    def _pieces(self) -> list[bytes]:
        return self.backend.pieces()

    @cached_property
    def controls(self) -> dict[int, ControlToken]:
        """Control tokens by id."""
        return {token.id: token for token in self.backend.controls}

    def tag_pieces(self) -> list[list[int]]:
        """For each control tag the ids of its literal in plain text: whose rows a new tag's row starts from."""
        return [self._plain(tag) for tag in TAGS]

    def _tags(self) -> dict[str, int]:
        if self.tag_ids is None:
            raise ValueError("the tokenizer has no control tags; call with_control_tags() first")
        return dict(zip(TAGS, self.tag_ids))

    def encode_response(self, text: str) -> list[int]:
        """Ids of a response in the Multiverse language, its control tags as control tokens.

        The very tokens that the interpreter writes (arXiv 2506.09991, section 4): the newline after a tag is always a
        token of its own, and the head of a path or an outline, `<Path>` newline label ":", is spelt number by number,
        "." and the canonical ":". So training data and generated streams are cut alike, and
        `decode(encode_response(text)) == text`, but that CRLF line ends become newlines.
        """
        text = text.replace("\r\n", "\n")
        ids, tags, after = [], self._tags(), None
        for part in _TAG.split(text):
            if part in tags:
                ids.append(tags[part])
            else:
                ids += self.encode_after(after, part, start=not ids)
            after = part
        return ids

    def encode_sequential(self, text: str) -> list[int]:
        """Ids of a response without blocks. <Think> at its very start, and the </Think> that closes it, are control
        tokens, cut as `encode_response` cuts them; all else is text, tags too."""
        text = text.replace("\r\n", "\n")
        match = _THINKING.fullmatch(text)
        if match is None:
            return self.encode(text)
        tags = self._tags()
        ids = [tags["<Think>"], *self.encode_after("<Think>", match[1])]
        return [*ids, tags["</Think>"], *self.encode_after("</Think>", match[2])]

    def encode_after(self, tag: str | None, text: str, *, start: bool = False) -> list[int]:
        """Ids of text, given the control tag that it follows directly, if any. start: it begins a text."""
        if tag not in _TAG_SET:
            return self._plain(text, start=start)
        ids = []
        if text.startswith("\n"):
            ids, text = [self.separator_id], text[1:]
        head = _HEAD.match(text) if tag in _HEADS else None
        if head is not None:
            for i, number in enumerate(head[1].split(".")):
                ids += ([self._single(".")] if i else []) + self._plain(number)
            ids.append(self._single(":"))
            text = text[head.end() :]
        return ids + self._plain(text)

    @cached_property
    def separator_id(self) -> int:
        """The newline token, written after control tags."""
        return self._single("\n")

    def _single(self, text: str) -> int:
        ids = self._plain(text)
        if len(ids) != 1:
            raise UserError(f"the vocabulary spells {text!r} with {len(ids)} tokens, not one; the model cannot be used")
        return ids[0]

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        system: str | None = None,
        add_generation_prompt: bool = True,
        plain_fallback: bool = False,
        plain_answers: bool = False,
        options: Mapping[str, Any] = {},
    ) -> list[int]:
        """Ids of a conversation, by the checkpoint's own chat template.

        Messages of any role but assistant are text throughout: nothing in them becomes a control token, whatever the
        template does with it. Earlier answers (role assistant) are encoded as the transcripts that they are, like
        `encode_response`; special tokens in them stay text too.

        Args:
            messages: {"role": word, "content": text}, oldest first; further keys are passed to the template.
            system: a system message to put before them.
            add_generation_prompt: end with the header of the answer to come.
            plain_fallback: for a tokenizer without a template use "User: ...", "Assistant: ..." lines
                (`chat.PLAIN_TEMPLATE`) instead of failing.
            plain_answers: earlier answers are sequential text: tags in them stay text.
            options: further names for the template, such as enable_thinking.
        Raises:
            UserError: no template, a template that fails, or messages of the wrong form.
        """
        if system is not None:
            messages = [{"role": "system", "content": system}, *messages]
        rendering = Rendering(self, [messages], options, plain_fallback=plain_fallback, plain_answers=plain_answers)
        return rendering.encode(rendering.text(messages, add_generation_prompt=add_generation_prompt))

    def tables(self, rows: int | None = None) -> VocabularyTables:
        """The interpreter's lookups over V = max(vocab_size, rows) ids; rows beyond the vocabulary are plain text.

        Raises:
            UserError: newline, ":" or "." is no single token, or `rows` is less than the vocabulary.
        """
        tags = self._tags()
        if rows is not None:
            check_model_vocabulary(self, rows)
        codes = np.full(rows or self.vocab_size, -1, np.int8)
        codes[list(tags.values())] = np.arange(len(TAGS))
        spare = [b""] * (len(codes) - self.vocab_size)
        return VocabularyTables(
            codes=codes,
            colon=np.array([b":" in piece for piece in self._pieces + spare]),
            newline=np.array([b"\n" in piece for piece in self._pieces + spare]),
            separator_id=self.separator_id,
            colon_id=self._single(":"),
            dot_id=self._single("."),
            number_ids=tuple(tuple(self._plain(str(n))) for n in range(1, NUMBERS + 1)),
            tag_ids=tuple(tags.values()),
            eos_ids=self.eos_ids,
        )

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the vocabulary: equal where every id has the same bytes, whatever file it came from."""
        digest = hashlib.sha256()
        for piece in self._pieces:
            digest.update(len(piece).to_bytes(4, "little") + piece)
        return digest.hexdigest()[:32]

    def save(self, directory: str | Path) -> None:
        """Writes the vocabulary and tokenizer_config.json, tags and template included; `load_tokenizer` and
        `transformers.AutoTokenizer` read them."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.backend.save(directory)
        with atomic_path(directory / "tokenizer_config.json") as temporary:
            config = self.settings.to_config() | self.backend.settings()
            text = json.dumps(config, ensure_ascii=False, indent=2)
            Path(temporary).write_text(text + "\n", encoding="utf-8")


_TAG_SET = frozenset(TAGS)
_TAG = re.compile("(" + "|".join(map(re.escape, TAGS)) + ")")
_THINKING = re.compile("<Think>(.*?)</Think>(.*)", re.DOTALL)


def check_model_vocabulary(tokenizer: Tokenizer, rows: int) -> None:
    """Raises UserError unless a model with this number of embedding rows can be used with the tokenizer.

    More rows than tokens is common (matrices are padded); fewer means that the two do not belong together.
    """
    if rows < tokenizer.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} tokens but the model only {rows} rows; "
            "they do not belong together, or the model lacks the rows of the control tags"
        )
