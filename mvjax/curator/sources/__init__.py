"""Producers that need no LLM: GSM8K, and a synthetic family."""
