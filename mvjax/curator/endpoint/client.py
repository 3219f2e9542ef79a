"""Asking an OpenAI-compatible chat endpoint: hosted models, vLLM, SGLang, llama.cpp and the like."""

from __future__ import annotations

import asyncio
import difflib
import json
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from mvjax.curator.endpoint.limits import Limiter
from mvjax.curator.endpoint.retry import FIRST_WAIT, LONGEST_WAIT, Trouble, read, trouble
from mvjax.curator.endpoint.spending import NOTHING, prompt_tokens
from mvjax.curator.production import Call, Reply
from mvjax.errors import UserError

FORMS: dict[str, tuple[str, ...]] = {
    "auto": ("schema", "json", "off"),
    "schema": ("schema",),
    "json": ("json",),
    "off": ("off",),
}
"""Ways to hold a reply to its form, tried in turn where the endpoint does not know one."""
CONNECTING = 15.0
"""Seconds that making a connection may take."""
LOOKING = 30.0
"""Seconds that the list of models may take."""
AWAY = 8
"""Connections that fail in a row before that is no longer taken for chance."""
REFUSED = 10
"""Refused calls, with none answered, after which an endpoint is taken to refuse all."""
GO_ON = "what is done is kept, and the run can be started again and goes on"


@dataclass(frozen=True)
class Endpoint:
    """A chat model, and how it is asked."""

    base_url: str
    """Address, such as http://localhost:8000/v1."""
    model: str
    """Name of the model there."""
    key_name: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; a server of one's own may need none."""
    temperature: float | None = None
    """None: as the endpoint does."""
    top_p: float | None = None
    """None: as the endpoint does."""
    seed: int | None = None
    """For endpoints that sample reproducibly."""
    timeout: float = 600.0
    """Seconds that a reply may take."""
    tries: int = 8
    """How often a call is tried before it counts as failed."""
    requests_per_minute: float = 0
    """0: no limit."""
    tokens_per_minute: float = 0
    """0: no limit."""
    structured: str = "auto"
    """schema, json, off; auto: the first of these that the endpoint knows."""
    max_wait: float = 120.0
    """Seconds that are waited at most where the endpoint asks for a wait (Retry-After)."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the request, for options of vLLM, SGLang or llama.cpp."""

    def check(self) -> Endpoint:
        """The same, if it makes sense; UserError says what does not."""
        try:
            parts = urlsplit(self.base_url)
            good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            parts, good = urlsplit(""), False
        if not good or not self.base_url.isprintable() or " " in self.base_url:
            raise UserError(f"--base-url {self.base_url!r}: give an address such as http://localhost:8000/v1")
        if parts.path.rstrip("/").endswith("/completions"):
            raise UserError(f"--base-url {self.base_url}: leave out what comes after /v1")
        if not self.model:
            raise UserError("--model: name the model at the endpoint")
        if self.structured not in FORMS:
            raise UserError(f"--structured {self.structured}: use one of {', '.join(FORMS)}")
        if self.tries < 1 or self.timeout <= 0:
            raise UserError("--tries and --timeout: give more than 0")
        if 0 < self.requests_per_minute < 1:
            raise UserError(f"--requests-per-minute {self.requests_per_minute}: give 1 or more, or 0 for no limit")
        return self

    @property
    def key(self) -> str:
        """The key, "" where there is none; UserError where it cannot be one."""
        key = os.environ.get(self.key_name, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise UserError(f"{self.key_name}: this is no key; it holds characters other than plain ASCII")
        return key


class ChatClient:
    """Calls with retries; see `complete`. One for a run, inside its event loop.

    Args:
      endpoint: whom to ask.
      clock, sleep, draw: time, waiting and random numbers from 0 to 1; others for tests.
    Raises:
      UserError: the endpoint makes no sense, or the openai package is missing.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ):
        try:
            import openai
        except ImportError as error:
            raise UserError("the openai package is not installed (pip install 'mvjax[curate]')") from error
        self.endpoint = endpoint.check()
        self._clock, self._sleep, self._draw = clock, sleep, draw
        self._limiter = Limiter(endpoint.requests_per_minute, endpoint.tokens_per_minute, clock=clock, sleep=sleep)
        self._forms, self._limit_field = FORMS[endpoint.structured], "max_tokens"
        self._reached = self._answered = False
        self._away = self._refused = 0
        self._errors = (openai.OpenAIError, TimeoutError, ValueError, RecursionError)
        self._raw = openai.HttpxBinaryResponseContent
        self._client = openai.AsyncOpenAI(
            api_key=endpoint.key or "none",
            base_url=endpoint.base_url,
            timeout=openai.Timeout(None, connect=CONNECTING),
            max_retries=0,
        )

    async def preflight(self) -> None:
        """See that the endpoint is there, knows the key and the model, before anything is spent.

        Raises:
          UserError: it does not. Endpoints that list no models are taken as they are.
        """
        seconds = min(LOOKING, self.endpoint.timeout)
        try:
            async with asyncio.timeout(seconds):
                response = await self._client.models.with_raw_response.list()
            listed = json.loads(response.http_response.content)
        except self._errors as error:
            found = trouble(error)
            if found.kind == "away":
                raise UserError(self._unreachable(found)) from error
            if isinstance(error, TimeoutError):
                raise UserError(f"--base-url {self.endpoint.base_url}: no answer within {seconds:g} s") from error
            self._reached = True
            # A key may be good for calls and not for this list: 403, or a 401 that speaks of scopes.
            if found.status == 401 and "scope" not in found.reason:
                raise UserError(self._hopeless(found)) from error
            return
        self._reached = True
        names, model = _names(listed), self.endpoint.model
        if names and not {model, f"models/{model}", f"{model}:latest"} & set(names):
            near = difflib.get_close_matches(model, names, 5, cutoff=0)
            raise UserError(
                f"--model {model}: {self.endpoint.base_url} has no such model; there are "
                f"{', '.join(near)}{' and others' if len(names) > len(near) else ''}"
            )

    async def complete(self, call: Call) -> Reply:
        """Ask, again where that may help, and give what came: see `Reply.finish`.

        Time-outs, lost connections, statuses 408, 409, 425, 429 and 5xx, and responses that hold no message are tried
        again, after random waits whose bound doubles, or as long as the endpoint asks for. A 429, or a Retry-After,
        makes all calls wait. Tokens of responses that held no message count too.

        Raises:
          UserError: no call can succeed: a wrong key, no such model, no money, an option that the endpoint does not
            take, or nobody there, at the first call or any more.
        """
        forms = self._forms if call.schema is not None else ("off",)
        tokens = prompt_tokens(call) + call.max_tokens
        lost, tries, away = NOTHING, 0, 0
        while True:
            limit_field = self._limit_field
            came = await self._ask(call, forms[0], limit_field, tokens)
            if isinstance(came, Reply):
                self._answered = True
                if call.schema is not None and forms[0] in self._forms:
                    self._forms = self._forms[self._forms.index(forms[0]) :]
                return lost.of(came)
            if came.form and limit_field == "max_tokens" and "max_completion_tokens" in came.reason:
                self._limit_field = "max_completion_tokens"
                continue
            if came.form and len(forms) > 1:
                forms = forms[1:]
                continue
            self._stop_where_hopeless(came)
            if came.kind == "refused":
                return lost.of(Reply(came.reason, "refused"))
            lost, tries, away = lost + came.usage, tries + 1, away + 1 if came.kind == "away" else 0
            if tries == self.endpoint.tries:
                if away == tries and self._away >= AWAY:
                    raise UserError(f"{self.endpoint.base_url}: nobody answers any more ({came.reason}); {GO_ON}")
                return lost.of(Reply(f"{came.reason}, {tries} tries", "failed"))
            wait = self._wait(came, tries)
            if came.kind == "pause":
                self._limiter.pause(wait)
            await self._sleep(wait)

    async def close(self) -> None:
        """Give up its connections."""
        await self._client.close()

    async def _ask(self, call: Call, form: str, limit_field: str, tokens: int) -> Reply | Trouble:
        """One try, when the limits let it through."""
        ticket, taken = await self._limiter.wait(tokens), 0
        start = self._clock()
        try:
            # The package's own time-out would be for each piece of a response, not for the whole.
            async with asyncio.timeout(self.endpoint.timeout):
                # Raw, as the package's own models of requests and responses take three times as long as all else here.
                response = await self._client.post(
                    "/chat/completions", cast_to=self._raw, body=self._body(call, form, limit_field)
                )
            reply = read(call, json.loads(response.content))
        except self._errors as error:
            found = trouble(error)
            taken = tokens if found.at_work else 0
            self._away = self._away + 1 if found.kind == "away" else 0
            if found.kind == "away" and not self._reached:
                raise UserError(self._unreachable(found)) from error
            self._reached = self._reached or found.kind != "away"
            return found
        else:
            taken = reply.prompt_tokens + reply.completion_tokens
            self._reached, self._away = True, 0
            return replace(reply, seconds=self._clock() - start)
        finally:
            self._limiter.correct(ticket, taken)

    def _body(self, call: Call, form: str, limit_field: str) -> dict[str, Any]:
        endpoint = self.endpoint
        messages = [dict(message) for message in call.messages]
        body: dict[str, Any] = {"model": endpoint.model, "messages": messages, limit_field: call.max_tokens}
        sampling = {name: getattr(endpoint, name) for name in ("temperature", "top_p", "seed")}
        body |= {name: value for name, value in sampling.items() if value is not None}
        if form == "schema":
            assert call.schema is not None
            schema = {"name": call.stage, "schema": dict(call.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif form == "json":
            body["response_format"] = {"type": "json_object"}
        return {**body, **endpoint.extra}

    def _wait(self, came: Trouble, tries: int) -> float:
        if came.wait is None:
            return self._draw() * min(FIRST_WAIT * 2 ** (tries - 1), LONGEST_WAIT)
        return min(came.wait, self.endpoint.max_wait) + self._draw() * FIRST_WAIT

    def _stop_where_hopeless(self, came: Trouble) -> None:
        """Raise UserError where no call can succeed."""
        self._refused += came.kind == "refused" and came.form and not self._answered
        if (
            came.kind in ("key", "money", "model")
            or (came.kind == "address" and not self._answered)
            or (came.kind == "refused" and came.param in ("temperature", "top_p", "seed", *self.endpoint.extra))
            or self._refused >= REFUSED
        ):
            raise UserError(self._hopeless(came))

    def _hopeless(self, came: Trouble) -> str:
        endpoint = self.endpoint
        if came.kind == "key":
            have = "is not accepted" if endpoint.key else "is not set"
            return (
                f"{endpoint.base_url}: {came.reason}; the key in {endpoint.key_name} {have} "
                "(--key-name names another environment variable)"
            )
        if came.kind == "money":
            return f"{endpoint.base_url}: {came.reason}; once it is paid for, {GO_ON}"
        if came.kind == "model":
            return f"--model {endpoint.model}: {endpoint.base_url} says {came.reason}"
        if came.kind == "address":
            return f"--base-url {endpoint.base_url}: no chat endpoint is there ({came.reason}); often it ends in /v1"
        return f"{endpoint.base_url}: it does not take the calls ({came.reason}); mend the options of the endpoint"

    def _unreachable(self, came: Trouble) -> str:
        return (
            f"--base-url {self.endpoint.base_url}: nobody answers there ({came.reason}); "
            "is the server running, and the address right?"
        )


def _names(listed: Any) -> list[str]:
    """Names of models in the response to a request for them, whatever that is."""
    entries = listed.get("data") if isinstance(listed, Mapping) else None
    entries = [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []
    return [entry["id"] for entry in entries if isinstance(entry.get("id"), str)]
