"""Whether a run can be kept in a bucket, found out before it begins."""

from __future__ import annotations

import importlib.util
import secrets

from mvjax.errors import UserError
from mvjax.storage.path import StoragePath


def check_bucket(place: StoragePath) -> None:
    """UserError where runs cannot be kept there: another kind of storage, a package or the bucket is absent, access is
    refused, or nothing answers within the patience of `place`. Listing does not tell: an absent bucket looks empty."""
    if place.scheme != "gs":
        kinds = "a local directory or in gs://BUCKET/NAME"
        raise UserError(
            f"{place}: runs are kept in {kinds}, not in {place.scheme}://: Orbax, which writes checkpoints, cannot "
            "write there; models and data can be read from there"
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(f"{place}: checkpoints in gs:// need the package gcsfs: pip install 'mvjax[gcs]'")
    probe = place / f".probe-{secrets.token_hex(4)}"
    probe.write_bytes(b"")
    probe.delete()
