"""The curator's store, one SQLite file, and what is made of it."""

from mvjax.curator.store.journal import Store

__all__ = ["Store"]
