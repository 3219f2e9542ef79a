"""Where files are kept: one path for local files and buckets, copies between them, and who may write."""

from mvjax.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "mvjax.storage.path": "StoragePath Versioned",
        "mvjax.storage.errors": "Changed UnreachableError",
        "mvjax.storage.lease": "Lease LeaseLost",
        "mvjax.storage.mirror": "Mirror",
        "mvjax.storage.transfer": "copy_file copy_tree",
    },
)
