"""Where this machine keeps copies of what is on the hub and in buckets."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from mvjax.storage import cache_directory

NAMED: ContextVar[str] = ContextVar("cache", default="")
"""The directory for calls that name none: that of the command's `Cached`."""


@dataclass(frozen=True, kw_only=True)
class Cached:
    """What is common to the options of commands that read a model or a tokenizer by its name or address."""

    cache: str = ""
    """Directory on this machine for files of the hub and of buckets; otherwise HF_HUB_CACHE, HF_HOME and MVJAX_CACHE
    say."""


def bucket_cache(named: str) -> Path:
    """Of copies of what is in buckets; named: by the caller, "" for none."""
    named = named or NAMED.get()
    return Path(named) / "buckets" if named else cache_directory()


def hub_cache(named: str) -> str:
    """Of huggingface_hub; named: by the caller, "" for none."""
    from huggingface_hub import constants

    return named or NAMED.get() or constants.HF_HUB_CACHE
