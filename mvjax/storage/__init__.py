"""Where files are kept: one path for local files and buckets, copies between them, and who may write."""

from mvjax.storage.errors import Changed, CutShort, UnreachableError
from mvjax.storage.lease import Lease, LeaseLost
from mvjax.storage.mirror import Mirror
from mvjax.storage.path import StoragePath, Versioned
from mvjax.storage.probe import check_bucket
from mvjax.storage.snapshot import cache_directory, in_parallel, linked, snapshot
from mvjax.storage.transfer import copy_file, copy_tree

__all__ = [
    "Changed",
    "CutShort",
    "Lease",
    "LeaseLost",
    "Mirror",
    "StoragePath",
    "UnreachableError",
    "Versioned",
    "cache_directory",
    "check_bucket",
    "copy_file",
    "copy_tree",
    "in_parallel",
    "linked",
    "snapshot",
]
