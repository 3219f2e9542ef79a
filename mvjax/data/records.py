"""Training records: the same problem in Multiverse and in autoregressive form; their JSON objects."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any

from mvjax.errors import UserError
from mvjax.files import atomic_path

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Record:
    """One problem with its two solutions."""

    id: str
    """Name; errors and skipped records are reported by it. `derived_id` where the data has none."""
    messages: tuple[Mapping[str, str], ...]
    """The conversation up to the answer: {"role", "content"} each, the last one from the user."""
    response: str
    """The answer in the Multiverse language (plain text where nothing is parallel)."""
    autoregressive: str
    """The same answer as sequential text. <Think> at its start and the </Think> that closes it are control tokens, as
    in the response; other tags in it are text."""
    answer: str
    """The final answer, as graded."""
    source: str
    """Where the problem comes from, such as `gsm8k`."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Whatever the curator knows: degree, length, nesting, ideal # parallel, ..."""
    cut: bool = False
    """Whether the answer stops before its end (a rollout at its limit): blocks still open end where it does, and no end
    of text follows (SPEC section 4). Where it is not set, a transcript must be complete."""
    sequential: bool = False
    """Whether there is only sequential text: `autoregressive` is taught wherever the curriculum asks for either form,
    and every answer of the conversation is trained on. Tags in it are text."""
    suffix: bool = True
    """Whether the last user message gets the form's suffix (`encode.SUFFIXES`)."""


@dataclass(frozen=True)
class Fault:
    """A record that was left out, and why."""

    name: str
    """Place in the file, and the record's id where it has one."""
    reason: str
    """What is wrong with it, in one line."""


def derived_id(*contents: Any) -> str:
    """A name for a record without one: the same for the same contents, whatever file they come from."""
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:16]


def open_input(path: str | Path) -> BufferedReader:
    """Open a file for reading bytes.

    Raises:
      UserError: it cannot be read.
    """
    try:
        return open(path, "rb")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def check_share(faults: Sequence[Fault], total: int, max_bad_share: float, where: str) -> None:
    """End the run where more than a set share of the records is bad, or none is left.

    Raises:
      UserError: naming the first bad record.
    """
    if total == 0:
        raise UserError(f"{where}: there is no record in it")
    if len(faults) > max_bad_share * total or len(faults) == total:
        first = faults[0]
        raise UserError(
            f"{where}: {len(faults)} of {total} records cannot be used (at most {max_bad_share:.0%} may be); "
            f"the first is {first.name}: {first.reason}"
        )


def write_records(path: str | Path, records: Iterable[Record]) -> int:
    """Write records as JSON lines; the file appears whole or not at all. Returns how many were written."""
    written = 0
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(to_fields(record), ensure_ascii=False) + "\n")
            written += 1
    return written


MARKS = ("cut", "sequential", "suffix")
"""Fields of a record that are written only where they are not what they usually are."""
DEFAULTS = {entry.name: entry.default for entry in dataclasses.fields(Record)}


def to_fields(record: Record) -> dict[str, Any]:
    """A record as its JSON object."""
    fields = dataclasses.asdict(record)
    return {name: value for name, value in fields.items() if name not in MARKS or value != DEFAULTS[name]}


def from_fields(fields: Mapping[str, Any]) -> Record:
    """The record of a JSON object. `id`, `answer`, `source` and `meta` may be missing, and `response` from sequential
    ones.

    Raises:
      ValueError: saying which field is missing or of the wrong type.
    """
    known = f" in record {fields['id']!r}" if isinstance(fields.get("id"), str) else ""
    values: dict[str, Any] = {name: fields.get(name) for name in ("response", "autoregressive")}
    marks = {name: fields.get(name, DEFAULTS[name]) for name in MARKS}
    for name, value in marks.items():
        if not isinstance(value, bool):
            raise ValueError(f"field {name!r} is neither true nor false{known}")
    if marks["sequential"] and values["response"] is None:
        values["response"] = values["autoregressive"]
    for name in ("id", "answer", "source"):
        values[name] = "" if fields.get(name) is None else fields[name]
    for name, value in values.items():
        if not isinstance(value, str):
            raise ValueError(f"field {name!r} is missing or no string{known}")
    meta = {} if fields.get("meta") is None else fields["meta"]
    if not isinstance(meta, dict):
        raise ValueError(f"field 'meta' is no object{known}")
    messages = checked_messages(fields.get("messages"), known)
    if messages[-1]["role"] != "user":
        raise ValueError(f"the last message is not the user's{known}")
    values["id"] = values["id"] or derived_id(messages, values["response"], values["autoregressive"])
    return Record(messages=tuple(messages), meta=meta, **values, **marks)


def checked_messages(messages: Any, known: str = "") -> list[dict[str, str]]:
    """Messages with a role and a text each, and nothing else.

    Args:
      known: what is known of their record, for errors.
    Raises:
      ValueError: saying what is wrong with them.
    """
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"field 'messages' is missing or empty{known}")
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise ValueError(f"a message without a role out of {', '.join(ROLES)}{known}")
        if not isinstance(message.get("content"), str):
            raise ValueError(f"a message whose content is no string{known}")
    return [{"role": message["role"], "content": message["content"]} for message in messages]
