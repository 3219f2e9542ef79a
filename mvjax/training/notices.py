"""Notices that a host is going away, as Google Cloud's metadata server gives them to the host.

Maintenance may be told an hour ahead: the run saves and goes on. A pre-emption comes half a minute ahead, and a signal
does not always follow in time: the run saves and stops, as after SIGTERM.
"""

from __future__ import annotations

import json
import os
import threading
import urllib.request
from collections.abc import Callable

import jax

SERVER = "metadata.google.internal"
"""Of every machine of Google Cloud; GCE_METADATA_HOST names another, as for Google's own libraries."""
MAINTENANCE, UPCOMING, PREEMPTED = "maintenance-event", "upcoming-maintenance", "preempted"
"""Keys under `instance/`; a machine may lack any of them."""
EVERY, TIMEOUT = 5.0, 5.0
"""Seconds between two looks, and that one may take."""


class Notices:
    """While entered, looks for notices to this host, on TPUs and where GCE_METADATA_HOST is set; nothing elsewhere.

    Args:
        save: called with the words of each new notice of maintenance.
        stop: called with those of a pre-emption, once.
    """

    def __init__(self, save: Callable[[str], None], stop: Callable[[str], None], *, every: float = EVERY):
        self._save, self._stop, self._every = save, stop, every
        self._server = os.environ.get("GCE_METADATA_HOST", "")
        self._known, self._preempted = set[str](), False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notices", daemon=True)

    def __enter__(self) -> Notices:
        self._server = self._server or (SERVER if jax.default_backend() == "tpu" else "")
        if self._server:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(TIMEOUT)

    def _run(self) -> None:
        while True:
            self.look()
            if self._over.wait(self._every):
                return

    def look(self) -> None:
        """Ask the server once, and report what is new."""
        if self._ask(PREEMPTED) == "TRUE" and not self._preempted:
            self._preempted = True
            self._stop("pre-empted")
        found = {self._ask(MAINTENANCE), begun(self._ask(UPCOMING))} - {"", "NONE"}
        for text in sorted(found - self._known):
            self._save(text)
        self._known = found

    def _ask(self, key: str) -> str:
        """A value; "" where there is none, or no answer."""
        where = f"http://{self._server}/computeMetadata/v1/instance/{key}"
        request = urllib.request.Request(where, headers={"Metadata-Flavor": "Google"})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return answer.read().decode("utf-8", errors="replace").strip()
        except (OSError, ValueError):  # HTTP errors are OSErrors
            return ""


def begun(text: str) -> str:
    """Of what is said about upcoming maintenance, the words for one that is under way: a scheduled one is told a week
    ahead, and nothing need be done yet."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return ""
    status = found.get("maintenanceStatus", "") if isinstance(found, dict) else ""
    return f"maintenance {status}" if status == "ONGOING" else ""
