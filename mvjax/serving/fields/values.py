"""Values of fields: numbers as JSON has them, neither rounded, nor made of strings, nor NaN."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from mvjax.settings import INT32_MAX

Whole = Annotated[int, Field(strict=True, ge=0, le=INT32_MAX)]
Positive = Annotated[int, Field(strict=True, ge=1, le=INT32_MAX)]
Int64 = Annotated[int, Field(strict=True, ge=-(2**63), le=2**63 - 1)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Flag = StrictBool
Token = Annotated[int, Field(strict=True, ge=0, le=INT32_MAX)]
TokenKey = Annotated[str, Field(pattern=r"^[0-9]{1,10}$")]
"""A token id as a key of a JSON object."""
Bias = Annotated[float, Field(strict=True, ge=-100, le=100)]


class Fields(BaseModel):
    """An object whose fields are all known: one that is not is refused, never ignored."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)


class TextPart(Fields):
    """A part of a message's content. Only text is served."""

    type: Literal["text", "input_text", "output_text"]
    text: str
    annotations: list | None = None
    logprobs: list | None = None
    cache_control: dict | None = None


class PlainText(Fields):
    """The format of an answer: text."""

    type: Literal["text"]


Content = str | list[TextPart]


def text_of(content: Content | None) -> str:
    """Content as one text; parts are joined by newlines."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.text for part in content)
