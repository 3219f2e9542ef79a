"""POST /tokenize and /detokenize, with or without /v1."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field

from mvjax.serving.answers import Text, Tokens
from mvjax.serving.auth import key_of
from mvjax.serving.errors import ApiError
from mvjax.serving.fields.chat import Message, conversation
from mvjax.serving.fields.values import Fields, Flag, Token
from mvjax.serving.json_text import Json, StrictRoute
from mvjax.serving.routes.documented import READS, documented
from mvjax.serving.routes.models import described
from mvjax.serving.service import Service

router = APIRouter(route_class=StrictRoute, tags=["tokens"])


class TokenizeFields(Fields):
    """A text, or a conversation as it becomes a prompt (without the training suffix, unless it is named)."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    add_special_tokens: Flag | None = None
    prompt_suffix: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class DetokenizeFields(Fields):
    """Token ids."""

    model: str | None = None
    tokens: list[Token]


@router.post("/tokenize", response_model=None, responses=documented(Tokens, *READS))
@router.post("/v1/tokenize", response_model=None, responses=documented(Tokens, *READS))
async def tokenize(fields: TokenizeFields, request: Request) -> Json:
    """Token ids of a text or a conversation."""
    service: Service = request.app.state.service
    name = service.model_name(fields.model)
    if (fields.prompt is None) == (fields.messages is None):
        raise ApiError(400, "give either prompt or messages", param="prompt")
    if fields.messages is not None:
        options = {"suffix": fields.prompt_suffix or "", "options": fields.chat_template_kwargs}
        its = conversation(fields.messages)
        prompt = await service.chat_prompt(its, key=key_of(request.headers), mode="parallel", **options)
        tokens = list(prompt.tokens)
    else:
        tokens = await service.tokenizing(service.encode, fields.prompt, fields.add_special_tokens)
    most = described(service, name)["max_model_len"]
    return Json({"tokens": tokens, "count": len(tokens), "max_model_len": most})


@router.post("/detokenize", response_model=None, responses=documented(Text, *READS))
@router.post("/v1/detokenize", response_model=None, responses=documented(Text, *READS))
async def detokenize(fields: DetokenizeFields, request: Request) -> Json:
    """The text of token ids."""
    service: Service = request.app.state.service
    service.model_name(fields.model)
    return Json({"prompt": await service.tokenizing(service.tokenizer.decode, fields.tokens)})
