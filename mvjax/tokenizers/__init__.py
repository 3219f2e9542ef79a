"""Tokenizers: vocabularies from Hugging Face, GGUF and SentencePiece files, with control tags and chat templates."""

from mvjax.tokenizers.load import load_tokenizer
from mvjax.tokenizers.tables import VocabularyTables
from mvjax.tokenizers.tokenizer import Settings, Tokenizer, check_model_vocabulary

__all__ = ["Settings", "Tokenizer", "VocabularyTables", "check_model_vocabulary", "load_tokenizer"]
