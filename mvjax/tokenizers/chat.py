"""Chat templates: messages to text, such that nothing in a message can become a control token.

A template may do anything with a message (trim, split, change case, join). So the protection does not rely on finding
control literals in messages: in everything that is not the model's own earlier answer, each character that some control
literal *begins* with is replaced by a private-use stand-in before rendering and put back after the text has been
split at control literals. A control literal in the rendered text was therefore written by the template itself, or by
the model in an earlier turn.
"""

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, cast

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

from mvjax.errors import UserError

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
"""For models without a template of their own, where asked for: "User: ...", blank line, "Assistant:"."""


class Transcript(str):
    """An earlier answer that is a transcript, where others are plain text."""


_ROLE = re.compile(r"[A-Za-z0-9_-]{1,64}")


class _Generation(jinja2.ext.Extension):
    """`{% generation %} ... {% endgeneration %}` marks the model's part in some templates; it changes no text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment.filters["tojson"] = to_json
    functions = cast(dict[str, Any], environment.globals)
    functions["raise_exception"] = raise_exception
    functions["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    return environment.from_string(template)


@dataclass(frozen=True)
class Protection:
    """How the text of messages is kept apart from the template's."""

    stand_ins: Mapping[str, str]
    """First characters of control literals -> private-use characters."""
    answer: str
    """Private-use character put where the model's own answer of an earlier turn begins."""

    @classmethod
    def choose(cls, literals: Sequence[str], texts: Sequence[str]) -> "Protection":
        """Picks stand-ins for the first characters of `literals` that occur nowhere in `texts`."""
        firsts = sorted({literal[0] for literal in literals})
        used = set().union(*map(set, texts))
        free = (chr(c) for c in itertools.chain(range(0xE000, 0xF900), range(0xF0000, 0xFFFFE)) if chr(c) not in used)
        try:
            return cls({first: next(free) for first in firsts}, next(free))
        except StopIteration:
            raise UserError("the messages use every private-use character; remove some") from None

    def hide(self, value: Any) -> Any:
        """The value with the first characters of all literals replaced, in every string that it holds."""
        if isinstance(value, str):
            return value.translate(str.maketrans(dict(self.stand_ins)))
        if isinstance(value, Mapping):
            return {self.hide(key): self.hide(item) for key, item in value.items()}
        return [self.hide(item) for item in value] if isinstance(value, list | tuple) else value

    def mark(self, text: str, special: re.Pattern[str] | None) -> str:
        """An earlier answer: only literals matching `special` are hidden, its beginning is marked.

        The mark follows leading white space, so that templates that trim still do.
        """
        if special is not None:
            text = special.sub(lambda match: self.stand_ins[match[0][0]] + match[0][1:], text)
        body = text.lstrip()
        return text[: len(text) - len(body)] + self.answer + body if body else text

    def restore(self, text: str) -> str:
        """Puts the hidden characters back."""
        return text.translate(str.maketrans({stand_in: first for first, stand_in in self.stand_ins.items()}))


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raises UserError unless every message has a role (a word) and a text as content."""
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise UserError(f'message {i}: must be {{"role": ..., "content": text}}')
        if not isinstance(message.get("role"), str) or not _ROLE.fullmatch(message["role"]):
            raise UserError(f"message {i}: its role must be one word, such as user or assistant")


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    protection: Protection,
    special: Callable[[str], re.Pattern[str] | None],
    *,
    add_generation_prompt: bool,
    names: Mapping[str, str],
) -> str:
    """The template's text for these messages, contents protected.

    Args:
        template: Jinja source, as checkpoints carry it.
        messages: checked by `check_messages`.
        protection: from `Protection.choose` over the literals of all control tokens.
        special: what is hidden even in an earlier answer, given the answer.
        add_generation_prompt: end with the header of the answer to come.
        names: bos_token and so on, for the template; texts among them are protected.
    Raises:
        UserError: the template is faulty or refuses the messages.
    """
    guarded = []
    for message in messages:
        rest = {key: value for key, value in message.items() if key not in ("role", "content")}
        content = message["content"]
        answer = message["role"] == "assistant"
        content = protection.mark(content, special(content)) if answer else protection.hide(content)
        guarded.append({"role": message["role"], "content": content, **protection.hide(rest)})
    try:
        return _compile(template).render(
            messages=guarded, add_generation_prompt=add_generation_prompt, tools=None, documents=None, **names
        )
    except Exception as error:  # a template can fail in any way that Python can
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"the chat template cannot render these messages: {reason}; change the messages or the template"
        ) from None
