"""Asking a chat endpoint: retries, limits, costs."""
