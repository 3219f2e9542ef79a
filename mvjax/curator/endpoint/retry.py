"""What came of a request to a chat endpoint: a reply, or trouble and what helps against it."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from mvjax.curator.endpoint.spending import NOTHING, Usage
from mvjax.curator.production import Call, Reply

RETRIED = (408, 409, 425, 429)
"""Statuses below 500 that another try may mend."""
BLAMED = (400, 404, 415, 422, 501)
"""Statuses of endpoints that do not know `response_format`, or not the one that was sent."""
ABOUT_FORM = ("response_format", "response format", "json_schema", "json schema", "json_object", "grammar")
NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
"""Codes of a 429 that no waiting mends."""
NO_MODEL = ("not exist", "not found", "unknown model", "invalid model", "no such model", "not a valid model")
FILTERED = ("content_filter", "content_policy_violation", "moderation", "flagged")
TOO_LONG = ("context_length_exceeded", "context length", "context size", "context window", "too long")
NO_CONNECTION = ("ConnectError", "ConnectTimeout", "ConnectionRefusedError", "gaierror")
BROKEN_OFF = ("error", "abort")
"""Reasons why a choice finished that mean the endpoint, not the model, ended it."""
Kind = Literal["again", "pause", "refused", "away", "key", "money", "model", "address"]
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds between two tries: the first time at most, ever at most."""


@dataclass(frozen=True)
class Trouble:
    """A request that brought no reply."""

    kind: Kind
    """again: another try may help; pause: so it may, but all calls should wait; refused: nothing helps this call;
    away: nobody is there; the others, which are what is wrong: nothing helps any call."""
    reason: str
    """What happened, in one line."""
    status: int = 0
    """Status of the response, if one came."""
    wait: float | None = None
    """Seconds that the endpoint asks for before the next try."""
    at_work: bool = False
    """Whether the endpoint may have worked on it, so that it counts against its limits."""
    form: bool = False
    """Whether `response_format` may be to blame."""
    param: str = ""
    """Field of the request that the endpoint finds fault with, where it tells."""
    usage: Usage = NOTHING
    """What it cost, as far as the endpoint tells."""


class Unusable(ValueError):
    """A response that holds no message; another try may bring one."""

    def __init__(self, reason: str, usage: Usage):
        super().__init__(reason)
        self.usage = usage


def read(call: Call, body: Any) -> Reply:
    """The reply in a response to a call.

    Args:
      body: the response's JSON, whatever that is.
    Raises:
      Unusable: there is no reply in it.
    """
    fields = body if isinstance(body, Mapping) else {}
    choice = _first(fields.get("choices"))
    message = choice.get("message")
    message = message if isinstance(message, Mapping) else {}
    text, refusal, finish = _text(message.get("content")), _text(message.get("refusal")), choice.get("finish_reason")
    usage = Usage.read(fields.get("usage"), call, text)
    known = usage if isinstance(fields.get("usage"), Mapping) else NOTHING
    error = fields.get("error") or choice.get("error")
    if error or finish in BROKEN_OFF:
        raise Unusable(_message(error) or "the endpoint broke it off", known)
    if not message:
        raise Unusable("no choices", known)
    reply = usage.of(Reply(text))
    if refusal or finish == "content_filter":
        return replace(reply, text=refusal or "held back by the endpoint's content filter", finish="refused")
    if finish == "length":
        return replace(reply, finish="length")
    if not text.strip():
        raise Unusable("an empty message", known)
    return reply


def trouble(error: Exception) -> Trouble:
    """What the `openai` package, the clock or `read` raised, and what helps."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return _status(error)
    if isinstance(error, openai.APIConnectionError) and _no_connection(error):
        return Trouble("away", _cause(error))
    if isinstance(error, TimeoutError):
        return Trouble("again", "no reply in time", at_work=True)
    if isinstance(error, openai.APIConnectionError):
        return Trouble("again", f"the connection was lost ({_cause(error)})", at_work=True)
    usage = error.usage if isinstance(error, Unusable) else NOTHING
    return Trouble("again", f"no message in the response ({_line(error)})", at_work=True, usage=usage)


def asked_wait(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that a response's Retry-After asks for, as a number or a date; None: it has none.

    Args:
      headers: with lower-case names.
      now: seconds since 1970; None: now.
    """
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(text).timestamp()
        except (ValueError, OverflowError):
            return None
        seconds = date - (time.time() if now is None else now)
    # A comparison with NaN is false: it counts as no wait.
    return seconds if seconds > 0 else 0.0


def _status(error: Any) -> Trouble:
    status, body = error.status_code, error.body if isinstance(error.body, Mapping) else {}
    told = _message(body) or _line(error.body or error.message)
    code, words = str(body.get("code") or body.get("type") or ""), told.lower()
    about_text = _about_text(status, code, words)
    kind: Kind = "refused" if about_text else _kind(status, code, words)
    blamed = status in BLAMED and kind in ("refused", "address") and not about_text
    wait = asked_wait(error.response.headers)
    return Trouble(
        "pause" if kind == "again" and wait is not None else kind,
        f"status {status}: {told}",
        status,
        wait,
        form=blamed or any(word in words for word in ABOUT_FORM),
        param=str(body.get("param") or ""),
    )


def _kind(status: int, code: str, words: str) -> Kind:
    """What helps against a status that is not about the text of one call."""
    if status == 402 or code in NO_MONEY:
        return "money"
    if status in (401, 403):
        return "key"
    if "model" in words and (status == 404 or (status < 500 and any(word in words for word in NO_MODEL))):
        return "model"
    if status in (404, 405):
        return "address"
    if status == 429:
        return "pause"
    return "again" if status in RETRIED or (status >= 500 and status != 501) else "refused"


def _about_text(status: int, code: str, words: str) -> bool:
    """Whether it is the text of this one call that an endpoint will not take: too long, or held back by a filter."""
    filtered = code in FILTERED or (status == 403 and any(word in words for word in FILTERED))
    return filtered or (status != 429 and (code in TOO_LONG or any(word in words for word in TOO_LONG)))


def _first(choices: Any) -> Mapping[str, Any]:
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, Mapping) else {}


def _text(content: Any) -> str:
    """Text of a message's content, which may come in parts."""
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def _message(error: Any) -> str:
    """What an error says; "" where there is none."""
    if isinstance(error, Mapping):
        error = error.get("message") or error.get("error") or error.get("detail") or error
    return _line(error) if error else ""


def _chain(error: BaseException | None):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _no_connection(error: BaseException) -> bool:
    """Whether no connection was made."""
    return any(type(cause).__name__ in NO_CONNECTION for cause in _chain(error))


def _cause(error: BaseException) -> str:
    """The first cause, in one line."""
    *_, first = _chain(error)
    return _line(first) or type(first).__name__


def _line(error: object) -> str:
    return " ".join(str(error).split())[:300]
