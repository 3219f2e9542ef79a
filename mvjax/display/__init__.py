"""Transcripts for people: tree, tables, measures, a picture of the mask, the live view of a generation."""
