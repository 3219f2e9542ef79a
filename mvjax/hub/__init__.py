"""Models and data by name: local paths first, then repositories of the Hugging Face hub."""

from mvjax.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "mvjax.hub.names": "HubName parse_name",
        "mvjax.hub.download": "Source resolve download_files",
    },
)
