"""Key-value stores of TensorStore, one for each bucket, and calls that are repeated while their server is away."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable
from typing import Any

from mvjax.storage.errors import explained, is_transient, unreachable

ATTEMPT = 10.0
"""Seconds after which a request without an answer is made again, and longer for what is large."""
SLOWEST = 2e6
"""Bytes a second of a transfer that is not given up."""
PAUSE, LONGEST_PAUSE = 0.25, 8.0
"""Seconds between two attempts, doubled from one to the next."""
SAID_AFTER = 15.0
"""Seconds of failing after which a warning is logged."""

RETRIES = {"max_retries": 2, "initial_delay": "100ms", "max_delay": "500ms"}
"""Those within TensorStore; the longer ones are here."""

log = logging.getLogger(__name__)


def open_store(scheme: str, bucket: str) -> Any:
    """The `tensorstore.KvStore` of a bucket, of the file system (keys without the leading "/") or of this process's
    memory."""
    return _opened(scheme, bucket, s3_endpoint() if scheme == "s3" else "")


@functools.lru_cache(maxsize=64)
def _opened(scheme: str, bucket: str, endpoint: str) -> Any:
    import tensorstore

    if scheme == "file":
        return tensorstore.KvStore.open({"driver": "file", "path": "/"}).result()
    if scheme == "memory":
        return tensorstore.KvStore.open({"driver": "memory"}).result()
    spec: dict[str, Any] = {"driver": {"gs": "gcs"}.get(scheme, scheme), "bucket": bucket}
    if endpoint:
        spec |= {"endpoint": endpoint, "aws_region": os.environ.get("AWS_REGION", "us-east-1")}
    context = tensorstore.Context({"gcs_request_retries": RETRIES, "s3_request_retries": RETRIES})
    return tensorstore.KvStore.open(spec, context=context).result()


def s3_endpoint() -> str:
    """The server that takes the place of Amazon's; "" for Amazon's own."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def patiently(begin: Callable[[], Any], address: str, patience: float, n_bytes: int = 0) -> Any:
    """The result of a request, made again while the server is away, for `patience` seconds in all.

    Args:
        begin: makes the request; returns TensorStore's future.
        n_bytes: that are sent or fetched, for the time that one attempt may take.
    Raises:
        UnreachableError: there was no answer in that time.
        UserError: the server refuses, or there is no such bucket.
        IndexError: fewer bytes are there than were asked for.
    """
    began, pause, said = time.monotonic(), PAUSE, False
    while True:
        left = patience - (time.monotonic() - began)
        try:
            result = begin().result(timeout=min(ATTEMPT, max(left, PAUSE)) + n_bytes / SLOWEST)
        except (ValueError, TimeoutError, OSError, RuntimeError) as error:
            if "OUT_OF_RANGE" in str(error) or "not satisfiable" in str(error):
                raise IndexError(str(error)) from error
            if not is_transient(error):
                raise explained(error, address) from error
            waited = time.monotonic() - began
            if waited + pause >= patience:
                raise unreachable(error, address, patience) from error
            if not said and waited > SAID_AFTER:
                said = True
                log.warning("%s: the server is away; trying for another %.0f s", address, patience - waited)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        else:
            if said:
                log.warning("%s: the server is back after %.0f s", address, time.monotonic() - began)
            return result
