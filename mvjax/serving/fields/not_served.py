"""Fields of OpenAI's API that are not served. Clients send their defaults, which are accepted; all else is refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

SCHEDULE = "it counts tokens across branches, so the order in which they run would change the answer"
TOOLS = "tools are not served"
ONE_FORM = "answers are text"

REASONS = {
    "presence_penalty": SCHEDULE,
    "frequency_penalty": SCHEDULE,
    "repetition_penalty": SCHEDULE,
    "tools": TOOLS,
    "tool_choice": TOOLS,
    "functions": TOOLS,
    "function_call": TOOLS,
    "parallel_tool_calls": TOOLS,
    "response_format": ONE_FORM,
    "text": ONE_FORM,
    "modalities": ONE_FORM,
    "audio": ONE_FORM,
    "best_of": "all answers are returned: use n",
    "suffix": "text is not filled in",
    "previous_response_id": "responses are not stored: send the whole conversation",
    "background": "responses are not stored",
    "include": "nothing else can be included",
    "truncation": "prompts are never cut",
    "web_search_options": TOOLS,
    "prediction": "predicted outputs are not served",
}
"""Why a field takes its default only."""

Zero = Annotated[float, Field(strict=True, ge=0, le=0)] | None
One = Annotated[float, Field(strict=True, ge=1, le=1)] | None
Nothing = Annotated[list[Any], Field(max_length=0)] | None
Off = Literal[False] | None
"""Types of fields that take their default only."""
