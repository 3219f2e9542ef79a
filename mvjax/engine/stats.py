"""How busy an engine is, and what it has done so far."""

from __future__ import annotations

from typing import NamedTuple


class EngineStats(NamedTuple):
    """Counts at one moment; those of the last group only grow while the engine lives."""

    running: int
    """Requests on the device."""
    waiting: int
    """Requests in the queue, preempted ones included."""
    rows: int
    """Branches that have a token to feed."""
    pages_used: int
    """Pages that requests hold; 0 where streams do not lie in pages."""
    pages: int
    """Pages that requests can hold in all."""

    preemptions: int
    """Times that a request left the device for want of pages."""
    prefix_queries: int
    """Prompt tokens of admitted requests that were looked up among the pages of earlier prompts and answers."""
    prefix_hits: int
    """How many of them were found."""
    cold_compilations: int
    """Programs compiled since the warm-up."""
    programs: int
    """Programs compiled in all."""
    prompt_tokens: int
    """Tokens of the prompts whose answers have begun, those found in pages included."""
    generation_tokens: int
    """New tokens of all branches, written ones included."""
    steps: int
    """Steps of the generation loop."""
