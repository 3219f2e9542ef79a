"""What the operator of a server may set."""

from __future__ import annotations

import dataclasses
from typing import Literal

from mvjax import settings
from mvjax.settings import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServingConfig:
    """How requests are taken and answered. Sizes of the engine are those of `EngineConfig`."""

    models: tuple[str, ...] = setting(("mvjax",))
    """Names that the model is asked for by; the first is the one that /v1/models lists first."""
    api_key: str = dataclasses.field(default="", repr=False)
    """What clients send as `Authorization: Bearer KEY`; "": anybody may ask."""
    open_metrics: bool = setting(False)
    """/metrics answers without the key too."""
    origins: tuple[str, ...] = setting(())
    """Origins whose pages may call the API from a browser (CORS); "*": any. None by default."""
    mode: Literal["auto", "parallel", "sequential", "autoregressive"] = setting("auto")
    """For requests that name none; auto: parallel where the vocabulary has the control tags."""
    suffixes: bool = setting(True)
    """End the last message of a chat as the training prompts do (SUFFIXES of `mvjax.data.encode`), unless a request
    brings its own `prompt_suffix`."""
    reasoning_name: Literal["reasoning", "reasoning_content"] = setting("reasoning")
    """Name of the field that holds the text of Think and blocks; older clients look for the second."""
    temperature: float = setting(1.0, at_least=0)
    """For requests that name none."""
    max_tokens: int | None = setting(None, at_least=1)
    """New tokens of chats that name no limit; None: as many as there is room for."""
    most_choices: int = setting(8, at_least=1)
    """Answers to one call (`n`, and prompts of a completion) at most."""
    most_stops: int = setting(16, at_least=1)
    """Stop strings of one call at most."""
    most_body: int = setting(8 * 2**20, at_least=1)
    """Bytes of a request's body at most."""
    most_unread: int = setting(4096, at_least=1)
    """Tokens that wait for one client to read them; one that is further behind is cut."""
    deadline: float | None = setting(None, above=0)
    """Seconds after which an answer is wound up; None: no such limit."""
    keep_alive: float = setting(15.0, above=0)
    """A stream that has been silent for this number of seconds gets a comment, so that proxies keep it open."""
    retry_after: int = setting(1, at_least=0)
    """Seconds after which clients are asked to try again when the queue is full."""
    drain: float = setting(30.0, at_least=0)
    """Seconds that running answers get to end after SIGTERM."""

    def __post_init__(self):
        settings.validate(self, "")

    def conflict(self) -> str:
        """What is wrong with names; empty: nothing."""
        return "" if self.models and all(self.models) else f"models = {self.models} must be names, at least one"
