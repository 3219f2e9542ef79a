"""Which file a tokenizer is read from."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from mvjax.errors import UserError
from mvjax.placeholders import refuse_placeholder
from mvjax.tokenizers.definition import DefinitionBackend
from mvjax.tokenizers.gguf_vocabulary import read_vocabulary
from mvjax.tokenizers.tokenizer import Settings, Tokenizer


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Reads a tokenizer.

    Args:
        path: a directory with tokenizer.json (or tokenizer.model) and tokenizer_config.json as Hugging Face lays it
            out, a tokenizer.json, a .gguf file (of a split model any part), or a SentencePiece .model file.
    Raises:
        UserError: nothing there that is a tokenizer, or one that is damaged or of a kind that is not supported.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or directory; give a tokenizer directory, a .gguf or a .model file")
    if path.is_dir():
        return _load_directory(path)
    if path.suffix == ".json":
        return _load_directory(path.parent, path)
    if path.suffix == ".model":
        return _load_sentencepiece(path, {}, None)
    vocabulary, config = read_vocabulary(path)
    settings = Settings.from_config(config)
    if isinstance(vocabulary, bytes):
        from mvjax.tokenizers.sentencepiece_model import SentencePieceBackend

        backend = SentencePieceBackend(vocabulary, str(path))
        said = {key: value for key, value in config.items() if value is not None}
        return Tokenizer(backend, Settings.from_config(backend.names() | said))
    return Tokenizer(DefinitionBackend(vocabulary, str(path), settings.chat_template or ""), settings)


def _load_directory(directory: Path, file: Path | None = None) -> Tokenizer:
    config = _read_json(directory / "tokenizer_config.json") or {}
    template = directory / "chat_template.jinja"
    source = _read_text(template) if template.exists() else None
    if source is None:
        source = (_read_json(directory / "chat_template.json") or {}).get("chat_template")
    settings = Settings.from_config(config, source)
    named = config.get("vocabulary_file")
    if file is None and isinstance(named, str) and (directory / Path(named).name).exists():
        return _load_sentencepiece(directory / Path(named).name, config, source)
    file = file or directory / "tokenizer.json"
    if file.exists():
        definition = _read_json(file) or {}
        backend = DefinitionBackend(definition, str(file), settings.chat_template or "")
        return Tokenizer(backend, _with_generation_ends(settings, backend, directory))
    for name in ("tokenizer.model", "spiece.model"):
        if (directory / name).exists():
            return _load_sentencepiece(directory / name, config, source)
    raise UserError(
        f"{directory}: holds no tokenizer.json or tokenizer.model; fetch them with the model, or give --tokenizer"
    )


def _with_generation_ends(settings: Settings, backend: DefinitionBackend, directory: Path) -> Settings:
    """Adds the ends that generation_config.json lists (Qwen names two)."""
    listed = (_read_json(directory / "generation_config.json") or {}).get("eos_token_id") or []
    listed = listed if isinstance(listed, list) else [listed]
    texts = {token.id: token.text for token in backend.controls}
    ends = (*settings.eos, *(texts[i] for i in listed if i in texts))
    return replace(settings, eos=tuple(dict.fromkeys(ends)))


def _load_sentencepiece(path: Path, config: dict[str, Any], template: str | None) -> Tokenizer:
    from mvjax.tokenizers.sentencepiece_model import SentencePieceBackend

    refuse_placeholder(path)
    backend = SentencePieceBackend.from_file(path)
    return Tokenizer(backend, Settings.from_config(backend.names() | config, template))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        refuse_placeholder(path)
        raise UserError(f"{path}: not UTF-8 text; fetch it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        value = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        refuse_placeholder(path)
        raise UserError(
            f"{path}: not JSON (line {error.lineno}: {error.msg}); cut short or damaged, fetch it again"
        ) from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: must hold a JSON object; fetch it again")
    return value
