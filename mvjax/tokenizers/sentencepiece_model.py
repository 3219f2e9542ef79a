"""SentencePiece vocabularies: read, given control tags, trained, turned into Hugging Face's form."""

import base64
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece

from mvjax.errors import UserError
from mvjax.files import atomic_path
from mvjax.language.tags import TAGS
from mvjax.tokenizers import sentencepiece_schema as schema
from mvjax.tokenizers.backend import ControlToken, metaspace_bytes
from mvjax.tokenizers.definition import DefinitionBackend

MODEL_FILE = "tokenizer.model"
"""Where a directory keeps the model."""


class SentencePieceBackend:
    """A vocabulary given by a SentencePiece model.

    Control tags are known by their names: a model file can only call them user-defined symbols, which SentencePiece
    itself would find in any text. Here plain text is cut with those symbols (and the control pieces) switched off.
    """

    def __init__(self, model: bytes, source: str = "tokenizer.model"):
        """
        Args:
            model: the content of the model file.
            source: named in errors.
        Raises:
            UserError: not a SentencePiece model, or one of words or characters (unigram and BPE are supported).
        """
        self.model, self.source = model, source
        self._proto = schema.Model()
        try:
            self._proto.ParseFromString(model)
            if not self._proto.pieces:
                raise ValueError("no pieces")
            sentencepiece.SentencePieceProcessor(model_proto=model)
        except Exception as error:  # protobuf and the library raise what they like
            reason = " ".join(str(error).split())
            raise UserError(
                f"{source}: not a SentencePiece model ({reason}); damaged or cut short, fetch it again"
            ) from None
        if self._proto.trainer_spec.model_type not in (schema.UNIGRAM, schema.BPE):
            raise UserError(f"{source}: only unigram and BPE SentencePiece models are supported")
        self.ids = {piece.piece: i for i, piece in enumerate(self._proto.pieces)}
        self.size = len(self._proto.pieces)
        self.controls = tuple(
            ControlToken(i, piece.piece)
            for i, piece in enumerate(self._proto.pieces)
            if piece.type == schema.CONTROL or piece.piece in TAGS
        )
        self._inner = self._processor(prefix=False)
        self._start = self._processor(prefix=True)
        self.prefix_space = self._start.encode("a") != self._inner.encode("a")

    @classmethod
    def from_file(cls, path: Path) -> "SentencePieceBackend":
        """Reads a model file."""
        try:
            return cls(path.read_bytes(), str(path))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None

    def _processor(self, *, prefix: bool) -> sentencepiece.SentencePieceProcessor:
        proto = schema.Model()
        proto.CopyFrom(self._proto)
        for token in self.controls:
            if proto.pieces[token.id].type == schema.USER_DEFINED:
                # Unused pieces are never cut; the name (U+FDD0 is no character) means that no text spells it either.
                proto.pieces[token.id].type = schema.UNUSED
                proto.pieces[token.id].piece = f"\ufdd0control\ufdd1{token.id}"
        if not prefix:
            proto.normalizer_spec.add_dummy_prefix = False
            proto.normalizer_spec.remove_extra_whitespaces = False
        return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())

    def encode(self, text: str, *, start: bool) -> list[int]:
        return (self._start if start else self._inner).encode(text)

    def pieces(self) -> list[bytes]:
        literal = (schema.CONTROL, schema.UNKNOWN)
        return [p.piece.encode() if p.type in literal else metaspace_bytes(p.piece) for p in self._proto.pieces]

    def find(self, text: str) -> int | None:
        return self.ids.get(text)

    def with_controls(self, texts: tuple[str, ...]) -> "SentencePieceBackend":
        proto = schema.Model()
        proto.CopyFrom(self._proto)
        for text in texts:
            if text in self.ids:
                proto.pieces[self.ids[text]].type = schema.USER_DEFINED
            else:
                proto.pieces.add(piece=text, score=0.0, type=schema.USER_DEFINED)
        return SentencePieceBackend(proto.SerializeToString(), self.source)

    def names(self) -> dict[str, str]:
        """The special tokens that the model names, with the keys of tokenizer_config.json."""
        spec = self._proto.trainer_spec
        ids = {"bos_token": spec.bos_id, "eos_token": spec.eos_id, "pad_token": spec.pad_id, "unk_token": spec.unk_id}
        return {key: self._proto.pieces[i].piece for key, i in ids.items() if 0 <= i < self.size}

    def settings(self) -> dict[str, Any]:
        return {"vocabulary_file": MODEL_FILE}

    def save(self, directory: Path) -> None:
        with atomic_path(directory / MODEL_FILE) as temporary:
            Path(temporary).write_bytes(self.model)
        DefinitionBackend(self.definition(), self.source).save(directory)

    def definition(self) -> dict[str, Any]:
        """The same vocabulary as the content of tokenizer.json, for libraries that read only that."""
        normalizer = self._proto.normalizer_spec
        steps: list[dict[str, Any]] = []
        if normalizer.precompiled_charsmap:
            charsmap = base64.b64encode(normalizer.precompiled_charsmap).decode()
            steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
        if normalizer.add_dummy_prefix:
            steps.append({"type": "Prepend", "prepend": "\u2581"})
        steps.append({"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"})
        decoder: list[dict[str, Any]] = [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ]
        if normalizer.add_dummy_prefix:
            decoder.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
        controls = {token.id for token in self.controls}
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        added = [
            {"id": i, "content": piece.piece, **flags, "special": i in controls or piece.type == schema.UNKNOWN}
            for i, piece in enumerate(self._proto.pieces)
            if i in controls or piece.type in (schema.UNKNOWN, schema.USER_DEFINED)
        ]
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": {"type": "Sequence", "normalizers": steps},
            "pre_tokenizer": None,
            "post_processor": None,
            "decoder": {"type": "Sequence", "decoders": decoder},
            "model": self._bpe() if self._proto.trainer_spec.model_type == schema.BPE else self._unigram(),
        }

    def _unigram(self) -> dict[str, Any]:
        # Byte pieces must not be cut from text that happens to spell "<0x0A>".
        scores = [[p.piece, -1e6 if p.type == schema.BYTE else p.score] for p in self._proto.pieces]
        spec = self._proto.trainer_spec
        return {"type": "Unigram", "unk_id": spec.unk_id, "byte_fallback": spec.byte_fallback, "vocab": scores}

    def _bpe(self) -> dict[str, Any]:
        """SentencePiece merges by the score of the result: so every way to make a piece is a merge of that rank."""
        merges = []
        for piece in self._proto.pieces:
            if piece.type != schema.NORMAL:
                continue
            cuts = [(piece.piece[:i], piece.piece[i:]) for i in range(1, len(piece.piece))]
            found = [(a, b) for a, b in cuts if a in self.ids and b in self.ids]
            found.sort(key=lambda pair: (self.ids[pair[0]], self.ids[pair[1]]))
            merges += [(-piece.score, a, b) for a, b in found]
        merges.sort(key=lambda merge: merge[0])  # stable: equal scores stay in the order of the vocabulary
        return {
            "type": "BPE",
            "dropout": None,
            "unk_token": self._proto.pieces[self._proto.trainer_spec.unk_id].piece,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": self._proto.trainer_spec.byte_fallback,
            "ignore_merges": False,
            "vocab": self.ids,
            "merges": [[a, b] for _, a, b in merges],
        }


def train_sentencepiece(texts: Iterable[str], path: str | Path, *, vocab_size: int, model_type: str = "bpe") -> Path:
    """Trains a SentencePiece model with the control tags as user-defined symbols.

    Text survives it byte for byte: no normalisation, no space put before words, bytes for what the vocabulary lacks,
    and digits apart, so that labels are spelt alike everywhere.

    Args:
        texts: the corpus, plain or transcripts.
        path: model file to write.
        vocab_size: number of ids, the 256 bytes, 4 special tokens and 12 tags included.
        model_type: "bpe" or "unigram".
    Returns:
        The path; `load_tokenizer` reads it.
    Raises:
        UserError: no text, or too little of it for such a vocabulary.
    """
    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError("no text to train a tokenizer on; give it some")
    options = {
        "model_type": model_type,
        "vocab_size": vocab_size,
        "user_defined_symbols": list(TAGS),
        "pad_id": 3,
        "byte_fallback": True,
        "split_digits": True,
        "required_chars": ":.0123456789",
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "max_sentence_length": 1 << 20,
        "num_threads": 1,  # the order of sums decides ties: one thread gives the same model every time
        "minloglevel": 2,
    }
    with tempfile.TemporaryDirectory() as directory:
        corpus, prefix = Path(directory, "corpus.txt"), Path(directory, "model")
        corpus.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="replace")
        options |= {"input": str(corpus), "model_prefix": str(prefix)}
        # Several versions of the library end the process where there is too little text: so not this one.
        script = "import json, sys, sentencepiece; sentencepiece.SentencePieceTrainer.train(**json.loads(sys.argv[1]))"
        child = subprocess.run([sys.executable, "-c", script, json.dumps(options)], capture_output=True, text=True)
        if child.returncode:
            reason = " ".join(child.stderr.split())[-200:]
            raise UserError(f"training a vocabulary of {vocab_size} failed, give more text or a smaller one: {reason}")
        model = Path(f"{prefix}.model").read_bytes()
    path = Path(path)
    with atomic_path(path) as temporary:
        Path(temporary).write_bytes(model)
    return path
