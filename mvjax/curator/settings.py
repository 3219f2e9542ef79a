"""How the Curator with a chat model works: retries, limits, checks, prompts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mvjax.curator import prompt_files
from mvjax.curator.prompt_files import Prompts
from mvjax.errors import UserError

if TYPE_CHECKING:
    from mvjax.curator.checks.likelihood import LikelihoodCheck


@dataclass(frozen=True)
class Settings:
    """How to curate."""

    retries: int = 2
    """How often a stage is asked again, with what was wrong, before it falls back."""
    fallback: Literal["sequential", "reject"] = "sequential"
    """What becomes of a problem that cannot be made parallel."""
    judge: bool = True
    """Have each path judged by itself."""
    likelihood: LikelihoodCheck | None = None
    """Score the paths with a local model; None: do not."""
    distance: float = 0.2
    """Largest edit distance between the original and the refilled steps, over the longer length."""
    path_distance: float = 0.6
    """Largest edit distance between a path and its original."""
    max_tokens: int = 8192
    """Most tokens of a reply."""
    max_characters: int = 200_000
    """A longer reasoning is rejected before anything is asked."""
    max_prefix: int = 12_000
    """Characters of the text before a block that its paths' writer and judge are shown; the middle of a longer one is
    left out."""
    prompts: Prompts = field(default_factory=prompt_files.load)
    """What is asked."""

    def __post_init__(self):
        for name, low in (("retries", 0), ("max_tokens", 1), ("max_characters", 1), ("max_prefix", 100)):
            if getattr(self, name) < low:
                raise UserError(f"{name} {getattr(self, name)}: must be {low} or more")
        for name in ("distance", "path_distance"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} {getattr(self, name)}: must be between 0 and 1")
        if self.fallback not in ("sequential", "reject"):
            raise UserError(f"fallback {self.fallback}: must be sequential or reject")

    def fingerprint(self) -> dict[str, Any]:
        """All that replies and outcomes depend on, as JSON values; prompts by version and hash."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        scored = self.likelihood and [self.likelihood.threshold, self.likelihood.pull]
        return {**fields, "likelihood": scored, "prompts": self.prompts.fingerprint()}
