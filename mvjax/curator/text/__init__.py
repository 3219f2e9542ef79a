"""Texts: sentences, numbers, transcripts written and read."""
