"""What a store's errors mean: one line each, and whether another attempt may help."""

from __future__ import annotations

import re

from mvjax.errors import UserError


class UnreachableError(UserError):
    """A server that could not be reached, or did not answer in time, for as long as was allowed."""


class CutShort(UserError):
    """A file or object ends before the bytes that should be in it."""


class Changed(Exception):
    """A conditional write was not done: the object is no longer the one that was read."""


class NoSuchObject(FileNotFoundError):
    """There is no object, or local file, of this name."""

    def __init__(self, address: str):
        super().__init__(2, "there is no such file or object", address)


TRANSIENT = {"UNAVAILABLE", "ABORTED", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN", "CANCELLED", "RESOURCE_EXHAUSTED"}
"""Status codes of TensorStore after which the same request may succeed."""
REFUSED = {"PERMISSION_DENIED", "UNAUTHENTICATED"}
CODE = re.compile(r"^([A-Z_]+): ")
LOGIN = {
    "gs": "log in (gcloud auth application-default login) or name a key file in GOOGLE_APPLICATION_CREDENTIALS",
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
}


def code_of(error: Exception) -> str:
    """The status code of a TensorStore error; "" where it has none."""
    if isinstance(error, TimeoutError):
        return "DEADLINE_EXCEEDED"
    match = CODE.match(str(error))
    return match[1] if match else ""


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    return code_of(error) in TRANSIENT


def explained(error: Exception, address: str) -> UserError:
    """The one line for an error that no further attempt will mend."""
    scheme, _, rest = address.partition("://")
    bucket, code, text = rest.partition("/")[0], code_of(error), words(error)
    if code == "NOT_FOUND" and scheme in LOGIN:
        return UserError(f"{address}: there is no bucket {bucket}; create it, or correct the address")
    if code in REFUSED:
        return UserError(f"{address}: access was refused ({text}); {LOGIN.get(scheme, 'check its permissions')}")
    return UserError(f"{address}: {text or type(error).__name__}")


def unreachable(error: Exception, address: str, seconds: float) -> UnreachableError:
    """The one line for a server that did not do what it was asked within some seconds."""
    text = words(error) or "no answer"
    return UnreachableError(
        f"{address}: the server could not be reached within {seconds:.0f} s ({text}); check the network and the "
        "address, then start again"
    )


def words(error: Exception) -> str:
    """The text of an error in one line, without TensorStore's code and its notes."""
    text = re.sub(r"^All \d+ retry attempts failed: |CURL error ", "", " ".join(CODE.sub("", str(error)).split()))
    return re.sub(r"( \[[a-z_]+='[^']*'\])+.*$", "", text)[:160]
