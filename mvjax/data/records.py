"""Training records: one JSON object a line, the same problem in Multiverse and in autoregressive form."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any, overload

from mvjax.errors import UserError
from mvjax.files import atomic_path

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Record:
    """One problem with its two solutions."""

    id: str
    """Name, unique within a file; errors and skipped records are reported by it."""
    messages: tuple[Mapping[str, str], ...]
    """The conversation up to the answer: {"role", "content"} each, the last one from the user."""
    response: str
    """The answer in the Multiverse language (plain text where nothing is parallel)."""
    autoregressive: str
    """The same answer as sequential text without tags."""
    answer: str
    """The final answer, as graded."""
    source: str
    """Where the problem comes from, such as `gsm8k`."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Whatever the curator knows: degree, length, nesting, ideal # parallel, ..."""


@dataclass(frozen=True)
class Fault:
    """A record that was left out, and why."""

    name: str
    """Place in the file, and the record's id where it has one."""
    reason: str
    """What is wrong with it, in one line."""


@dataclass(frozen=True)
class RecordFile(Sequence[Record]):
    """The good records of a file, as a sequence, beside the faulty ones."""

    records: tuple[Record, ...]
    """Records that can be used, in the order of the file."""
    faults: tuple[Fault, ...]
    """Records that were skipped."""

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index):
        return self.records[index]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)


def read_records(path: str | Path, *, max_bad_share: float = 0.02) -> RecordFile:
    """Read a JSON Lines file of records; malformed ones are skipped, counted and named.

    Args:
      path: a UTF-8 file, one JSON object a line; empty lines are ignored.
      max_bad_share: largest share of malformed records that is put up with.
    Raises:
      UserError: no such file, no usable record, or too many malformed ones.
    """
    path = Path(path)
    records: list[Record] = []
    faults: list[Fault] = []
    with open_input(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                records.append(parse_line(line))
            except ValueError as error:
                faults.append(Fault(f"{path.name}:{number}", str(error)))
    check_share(faults, len(records) + len(faults), max_bad_share, str(path))
    return RecordFile(tuple(records), tuple(faults))


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
            file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
            written += 1
    return written


def parse_line(line: bytes) -> Record:
    """One record from its line of a file; a byte order mark before it is passed over.

    Raises:
      ValueError: saying what is wrong with it.
    """
    try:
        return parse_record(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text (byte {error.start + 1} of the line); save the file as UTF-8") from error


def parse_record(line: str) -> Record:
    """One record from its JSON line.

    Raises:
      ValueError: saying which field is missing or of the wrong type.
    """
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from error
    except RecursionError as error:
        raise ValueError("JSON nested too deep") from error
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    known = f" in record {fields['id']!r}" if isinstance(fields.get("id"), str) else ""
    for name in ("id", "response", "autoregressive", "answer", "source"):
        if not isinstance(fields.get(name), str):
            raise ValueError(f"field {name!r} is missing or no string{known}")
    if not isinstance(fields.get("meta", {}), dict):
        raise ValueError(f"field 'meta' is no object{known}")
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"field 'messages' is missing or empty{known}")
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise ValueError(f"a message without a role out of {', '.join(ROLES)}{known}")
        if not isinstance(message.get("content"), str):
            raise ValueError(f"a message whose content is no string{known}")
    if messages[-1]["role"] != "user":
        raise ValueError(f"the last message is not the user's{known}")
    return Record(
        id=fields["id"],
        messages=tuple({"role": message["role"], "content": message["content"]} for message in messages),
        response=fields["response"],
        autoregressive=fields["autoregressive"],
        answer=fields["answer"],
        source=fields["source"],
        meta=fields.get("meta", {}),
    )
