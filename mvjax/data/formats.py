"""Formats of training data that people have, told apart by the keys of their rows, and how a row becomes a record.

Only our own records have a Multiverse form. All others become sequential records: their text is taught wherever the
curriculum asks for either form, so a mixture keeps the shares of the records that have both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from mvjax.data.records import ROLES, Record, checked_messages, derived_id, from_fields

FormatName = Literal["auto", "records", "messages", "sharegpt", "problem", "prompt"]
"""Names for `--data.format`; auto: by the keys of the first row."""

SPEAKERS: Mapping[str, str] = {
    **{role: role for role in ROLES},
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
}
"""The roles of ShareGPT conversations, which datasets spell in several ways."""

CONVERSATIONS = ("messages", "conversations", "conversation")
PROMPTS, RESPONSES = ("prompt", "instruction"), ("response", "completion", "output")
PROBLEMS, SOLUTIONS = ("problem", "question"), ("solution", "answer")

_BLOCK = re.compile(r"^[ \t]*<Parallel>[ \t]*\r?$", re.MULTILINE)


@dataclass(frozen=True)
class Format:
    """One format of rows."""

    words: str
    """What it is, for messages."""
    keys: str
    """The keys that it is known by, for messages."""
    fits: Callable[[Mapping[str, Any]], bool]
    """Whether the keys of a row are those of this format."""
    parse: Callable[[Mapping[str, Any]], Record]
    """A row's record. Raises ValueError, saying what is wrong with the row."""


def detect(fields: Mapping[str, Any]) -> str | None:
    """The name of the format that has the keys of this row; None where none has."""
    return next((name for name, format in FORMATS.items() if format.fits(fields)), None)


def to_record(fields: Any, format: str, *, suffix: bool = False) -> Record:
    """The record of one row.

    Args:
      fields: what the row holds, as in a JSON object.
      format: a key of FORMATS.
      suffix: whether the last user message of a sequential record gets the suffix of the autoregressive form.
    Raises:
      ValueError: saying what is wrong with the row.
    """
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    record = FORMATS[format].parse(fields)
    return record if format == "records" else replace(record, suffix=suffix)


def parse_line(line: bytes) -> Any:
    """The JSON value of a line; a byte order mark before it is passed over.

    Raises:
      ValueError: saying what is wrong with it.
    """
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text (byte {error.start + 1} of the line); save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from error
    except RecursionError as error:
        raise ValueError("JSON nested too deep") from error


def known_formats() -> str:
    """All formats with their keys, for messages."""
    return "; ".join(f"{name} ({format.keys})" for name, format in FORMATS.items())


def _first(fields: Mapping[str, Any], names: Iterable[str]) -> str:
    """The first of these keys that has a value; "" where none has."""
    return next((name for name in names if fields.get(name) is not None), "")


def _spoken(fields: Mapping[str, Any], key: str) -> bool:
    """Whether the messages of a row are given by `key` ("role" or "from")."""
    turns = fields.get(_first(fields, CONVERSATIONS))
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], dict) and key in turns[0]


def _text(content: Any) -> Any:
    """The text of a message: a string, or a list of parts that are all text."""
    if isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in content
    ):
        return "".join(part["text"] for part in content)
    return content


def _messages(turns: Any) -> Any:
    """Chat messages with their contents as text; what is no list of messages is left as it is."""
    if not isinstance(turns, list):
        return turns
    return [{**turn, "content": _text(turn.get("content"))} if isinstance(turn, dict) else turn for turn in turns]


def _chat(fields: Mapping[str, Any]) -> Record:
    return _sequential(fields, _with_system(fields, _messages(fields.get(_first(fields, CONVERSATIONS)))))


def _with_system(fields: Mapping[str, Any], messages: Any) -> Any:
    """The messages after the system prompt that some datasets keep in a column of its own."""
    system = fields.get("system")
    if not isinstance(system, str) or not system or not isinstance(messages, list):
        return messages
    return [{"role": "system", "content": system}, *messages]


def _sharegpt(fields: Mapping[str, Any]) -> Record:
    turns = fields.get(_first(fields, CONVERSATIONS))
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError('field \'conversations\' is no list of {"from", "value"}')
    for turn in turns:
        if turn.get("from") not in SPEAKERS:
            raise ValueError(f"a turn from {turn.get('from')!r}; known are {', '.join(SPEAKERS)}")
    messages = [{"role": SPEAKERS[turn["from"]], "content": turn.get("value")} for turn in turns]
    return _sequential(fields, _with_system(fields, messages))


def _prompt(fields: Mapping[str, Any]) -> Record:
    prompt, response = (fields.get(_first(fields, names)) for names in (PROMPTS, RESPONSES))
    if isinstance(prompt, list):  # the prompt is a conversation; so may the response be
        response = response if isinstance(response, list) else [{"role": "assistant", "content": response}]
        return _sequential(fields, _messages([*prompt, *response]))
    if isinstance(prompt, str) and fields.get("input"):  # Alpaca's layout: what the instruction is about
        prompt = f"{prompt}\n\n{fields['input']}"
    return _dialogue(fields, prompt, "prompt", response, "response")


def _problem(fields: Mapping[str, Any]) -> Record:
    problem, solution = _first(fields, PROBLEMS), _first(fields, SOLUTIONS)
    return _dialogue(fields, fields.get(problem), "problem", fields.get(solution), "solution")


def _dialogue(fields: Mapping[str, Any], question: Any, asked: str, answer: Any, answered: str) -> Record:
    for what, value in ((asked, question), (answered, answer)):
        if not isinstance(value, str):
            raise ValueError(f"field {what!r} is missing or no string")
    return _sequential(fields, [{"role": "user", "content": question}, {"role": "assistant", "content": answer}])


def _sequential(fields: Mapping[str, Any], messages: Any) -> Record:
    """A conversation that ends with an answer, as a record of sequential text."""
    if fields.get("tools"):
        raise ValueError("field 'tools': calls of tools are not taught")
    turns = checked_messages(messages)
    if turns[-1]["role"] != "assistant":
        raise ValueError(f"the last message is the {turns[-1]['role']}'s, not the assistant's")
    if not any(turn["role"] == "user" for turn in turns):
        raise ValueError("no message of the user")
    for turn in turns:
        if turn["role"] == "assistant":
            turn["content"] = turn["content"].strip()
            if _BLOCK.search(turn["content"]):
                raise ValueError(
                    "an answer with a line <Parallel>: in this format answers are sequential text; transcripts belong "
                    "into records (messages, response, autoregressive)"
                )
    *prompt, answer = turns
    if not answer["content"]:
        raise ValueError("the last answer is empty")
    if not prompt or prompt[-1]["role"] != "user":
        raise ValueError("the message before the last answer is not the user's")
    name, text = fields.get("id"), answer["content"]
    return Record(
        id=str(name) if isinstance(name, str | int) and name != "" else derived_id(turns),
        messages=tuple(prompt),
        response=text,
        autoregressive=text,
        answer=_string(fields, "answer"),
        source=_string(fields, "source"),
        sequential=True,
    )


def _string(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    return "" if value is None else str(value)


def _has(*choices: Iterable[str]) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a row has one key at least of each choice."""
    return lambda fields: all(_first(fields, names) for names in choices)


FORMATS: Mapping[str, Format] = {
    "records": Format(
        "records in both forms", "messages, response, autoregressive", _has(["messages"], ["response"]), from_fields
    ),
    "messages": Format("chat messages", "messages of role, content", lambda fields: _spoken(fields, "role"), _chat),
    "sharegpt": Format(
        "ShareGPT conversations", "conversations of from, value", lambda fields: _spoken(fields, "from"), _sharegpt
    ),
    "problem": Format("problems and solutions", "problem, solution", _has(PROBLEMS, SOLUTIONS), _problem),
    "prompt": Format("prompts and responses", "prompt, response", _has(PROMPTS, RESPONSES), _prompt),
}
"""The formats in the order in which they are tried."""

assert set(FORMATS) | {"auto"} == set(get_args(FormatName))
