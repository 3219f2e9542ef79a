"""Responses to grade, from JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mvjax.data.formats import parse_line
from mvjax.data.readers import DataFile
from mvjax.data.readers import kind_of as file_kind
from mvjax.errors import UserError
from mvjax.grading.kinds import kind_of


class Item(NamedTuple):
    """One response and what it should say."""

    id: str
    answer: str
    response: str
    kind: str | None
    """The answer's kind; None: told from the answer."""


def read_items(path: Path) -> Iterator[Item]:
    """The items of a file of {id, answer, response, kind?}: JSON lines, a JSON array, Parquet or Arrow.

    Raises:
      UserError: the file cannot be read, an id comes twice, a field is missing or of the wrong type; names file, line
        and field.
    """
    first: dict[str, int] = {}
    for number, row in enumerate(DataFile(path, str(path), file_kind(path)).rows(), 1):
        if isinstance(row, bytes) and not row.strip():
            continue
        where = f"{path}:{number}"
        try:
            fields = parse_line(row) if isinstance(row, bytes) else row
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
        if not isinstance(fields, dict):
            raise UserError(f"{where}: not a JSON object with id, answer and response")
        item = _item(fields, where)
        if item.id in first:
            raise UserError(
                f"{where}: field 'id': {item.id!r} is the id of line {first[item.id]} too; give each its own"
            )
        first[item.id] = number
        yield item
    if not first:
        raise UserError(f"{path}: holds no response; give a line of id, answer and response for each")


def _item(fields: dict, where: str) -> Item:
    for name in ("id", "answer"):
        if isinstance(fields.get(name), bool) or not isinstance(fields.get(name), str | int | float):
            raise UserError(f"{where}: field {name!r} is missing, or neither text nor a number")
    if not isinstance(fields.get("response"), str):
        raise UserError(f"{where}: field 'response' is missing or no text")
    kind, answer = fields.get("kind"), str(fields["answer"])
    if kind is not None:
        kind = kind_of(answer, str(kind), f"{where}: field 'kind'")
    return Item(str(fields["id"]), answer, fields["response"], kind)
