"""Models and data by name: local paths first, then repositories of the Hugging Face hub; and by address in buckets."""

from mvjax.hub.card import card
from mvjax.hub.download import Source, download_files, local_path, resolve
from mvjax.hub.names import HubName, as_written, parse_name

__all__ = [
    "HubName",
    "Source",
    "as_written",
    "card",
    "download_files",
    "local_path",
    "parse_name",
    "resolve",
]
