"""Vocabularies defined the way Hugging Face's tokenizer.json defines them."""

import copy
import json
import secrets
from pathlib import Path
from typing import Any

import tokenizers

from mvjax.errors import UserError
from mvjax.files import atomic_path
from mvjax.tokenizers.backend import ControlToken, byte_level_bytes, metaspace_bytes

# Names that control tokens bear while plain text is cut. Random, so that no text can be made to spell one.
_HIDDEN = f"\x00{secrets.token_hex(16)}\x00"
_NEVER = -1e6


class DefinitionBackend:
    """A vocabulary given by the content of tokenizer.json: BPE or Unigram, byte-level or with "▁" for spaces."""

    def __init__(self, definition: dict[str, Any], source: str = "tokenizer.json", structure: str = ""):
        """
        Args:
            definition: the content of tokenizer.json.
            source: named in errors.
            structure: the chat template. Added tokens that occur in it are control tokens even where the definition
                does not call them special (Qwen's "<tool_call>"), so that no user can fake the structure of a chat.
        Raises:
            UserError: the definition is damaged or of a kind that is not supported.
        """
        self.definition, self.source, self.structure = definition, source, structure
        try:
            model, added = definition["model"], definition.get("added_tokens") or []
            if model.get("type", "BPE") not in ("BPE", "Unigram"):
                raise UserError(f"{source}: {model.get('type')} vocabularies are not supported; BPE and Unigram are")
            vocabulary = model["vocab"]
            self._unigram = isinstance(vocabulary, list)
            names = {entry[0]: i for i, entry in enumerate(vocabulary)} if self._unigram else vocabulary
            self.ids: dict[str, int] = {**names, **{token["content"]: token["id"] for token in added}}
            self.size = 1 + max(self.ids.values())
            if len(set(self.ids.values())) != len(self.ids):
                raise UserError(f"{source}: two of its tokens share an id; the file is damaged")
            self.controls = tuple(
                ControlToken(t["id"], t["content"], t["special"], t.get("lstrip", False), t.get("rstrip", False))
                for t in added
                if t["special"] or t["content"] in structure
            )
            self._byte_level = _mentions(definition, "ByteLevel")
            if not self._byte_level and "\u2581" not in json.dumps(_shell(definition), ensure_ascii=False):
                raise UserError(
                    f"{source}: neither byte-level nor with '\u2581' for spaces; such tokenizers are not supported"
                )
            plain = self._without_controls()
            self._inner = _build(_without_prefix_space(plain))
            self._start = self._inner
            if any(word in json.dumps(_shell(plain)) for word in ("Metaspace", "Prepend", '"add_prefix_space": true')):
                self._start = _build(plain)
            self.prefix_space = self._start.encode("a").ids != self._inner.encode("a").ids
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            raise UserError(
                f"{source}: not a tokenizer definition ({type(error).__name__}: {error}); fetch it again"
            ) from error

    def encode(self, text: str, *, start: bool) -> list[int]:
        return (self._start if start else self._inner).encode(text, add_special_tokens=False).ids

    def pieces(self) -> list[bytes]:
        spell = byte_level_bytes if self._byte_level else metaspace_bytes
        pieces = [b""] * self.size
        for text, i in self.ids.items():
            pieces[i] = spell(text)
        for token in self.definition.get("added_tokens") or []:
            pieces[token["id"]] = token["content"].encode()
        return pieces

    def find(self, text: str) -> int | None:
        return self.ids.get(text)

    def with_controls(self, texts: tuple[str, ...]) -> "DefinitionBackend":
        definition = dict(self.definition)
        added = [dict(token) for token in definition.get("added_tokens") or []]
        known = {token["content"]: token for token in added}
        free = self.size
        for text in texts:
            if text in known:
                known[text]["special"] = True
                continue
            index = self.ids.get(text)
            if index is None:
                index, free = free, free + 1
            flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            added.append({"id": index, "content": text, **flags, "special": True})
        # The library numbers added tokens in the order of the list.
        definition["added_tokens"] = sorted(added, key=lambda token: token["id"])
        return DefinitionBackend(definition, self.source, self.structure)

    def save(self, directory: Path) -> None:
        # The library numbers added tokens itself: make sure that it will number them as here.
        whole = _build(self.definition)
        for token in self.controls:
            if whole.token_to_id(token.text) != token.id:
                raise UserError(
                    f"{self.source}: ids with gaps; {token.text!r} would not keep its id {token.id} when saved"
                )
        with atomic_path(directory / "tokenizer.json") as temporary:
            Path(temporary).write_text(json.dumps(self.definition, ensure_ascii=False, indent=1), encoding="utf-8")

    def settings(self) -> dict[str, Any]:
        return {}

    def _without_controls(self) -> dict[str, Any]:
        """The definition that can only cut plain text: control tokens renamed to what no text can become.

        All ids stay where they are: tokens that the definition only adds are written into the vocabulary, because the
        library numbers added tokens one after another and a gap would shift those that follow.
        """
        model = dict(self.definition["model"])
        hidden = {token.text for token in self.controls}
        kept = [t for t in self.definition.get("added_tokens") or [] if t["content"] not in hidden]
        plain = {**self.definition, "truncation": None, "padding": None, "post_processor": None, "added_tokens": kept}
        names = {f"{_HIDDEN}{i}" if name in hidden else name: i for name, i in self.ids.items()}
        if model.get("unk_token") in hidden:
            model["unk_token"] = f"{_HIDDEN}{self.ids[model['unk_token']]}"
        if self._unigram:
            scores = dict(enumerate(score for _, score in model["vocab"]))
            ordered = sorted(names.items(), key=lambda item: item[1])
            if len(ordered) != self.size:
                raise ValueError("gaps between the ids of a Unigram vocabulary")
            model["vocab"] = [[name, _NEVER if _HIDDEN in name else scores.get(i, _NEVER)] for name, i in ordered]
        else:
            merges = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
            model["vocab"] = names
            model["merges"] = [m for m in merges if not ({m[0], m[1], m[0] + m[1]} & hidden)]
        return {**plain, "model": model}


def _build(definition: dict[str, Any]) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(definition, ensure_ascii=False))
    except Exception as error:  # the library raises bare Exceptions
        raise ValueError(str(error)) from None


def _shell(definition: dict[str, Any]) -> dict[str, Any]:
    """The definition without its (large) model."""
    return {key: value for key, value in definition.items() if key != "model"}


def _mentions(definition: dict[str, Any], kind: str) -> bool:
    parts = [definition.get(key) for key in ("pre_tokenizer", "decoder")]
    return f'"type": "{kind}"' in json.dumps(parts)


def _without_prefix_space(definition: dict[str, Any]) -> dict[str, Any]:
    """The same cutting without the space that some definitions put before the first word."""

    def clean(part: Any) -> Any:
        if isinstance(part, list):
            cleaned = [clean(item) for item in part]
            return [item for item in cleaned if not (isinstance(item, dict) and item.get("type") == "Prepend")]
        if not isinstance(part, dict):
            return part
        part = {key: clean(value) for key, value in part.items()}
        if part.get("type") == "Metaspace":
            part["prepend_scheme"] = "never"
            part.pop("add_prefix_space", None)
        elif part.get("type") == "ByteLevel":
            part["add_prefix_space"] = False
        return part

    shell = copy.deepcopy(_shell(definition))
    for key in ("normalizer", "pre_tokenizer"):
        cleaned = clean(shell.get(key))
        shell[key] = None if isinstance(cleaned, dict) and cleaned.get("type") == "Prepend" else cleaned
    return {**shell, "model": definition["model"]}
