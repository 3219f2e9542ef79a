"""What the routes share: the driver, the settings, and how fields of a request become questions to the engine."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from mvjax.data.encode import SUFFIXES
from mvjax.engine import Mode, Prompt
from mvjax.language.grammar import RESERVE
from mvjax.serving.answer_text import TokenLogProb
from mvjax.serving.conversations import Conversations
from mvjax.serving.driver import Driver
from mvjax.serving.errors import ApiError
from mvjax.serving.fields.sampled import Sampled
from mvjax.serving.generation import Choice, Generation, Question
from mvjax.serving.settings import ServingConfig

logger = logging.getLogger("mvjax.serving")


class Service:
    """One served model.

    Args:
        driver: started.
        scorer: of prompts (`PromptScorer`); None: their log-probabilities are not computed.

    Attributes:
        vocabulary: the tokenizer's `VocabularyTables`.
    """

    def __init__(self, driver: Driver, config: ServingConfig, scorer: Any = None):
        self.driver, self.config, self.tokenizer = driver, config, driver.tokenizer
        vocabulary = driver.vocabulary
        self.vocabulary, self.scorer = vocabulary, scorer
        self.conversations = Conversations(driver.tokenizer, vocabulary)
        # Long texts must not hold up the event loop; one thread, so that what is remembered needs no lock.
        self._tokenizing = ThreadPoolExecutor(1, "mvjax tokenizer")

    def close(self) -> None:
        """End its threads."""
        self._tokenizing.shutdown(wait=False, cancel_futures=True)

    async def tokenizing(self, function, *arguments, **options) -> Any:
        """The result of a call on the thread that reads and writes texts."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._tokenizing, lambda: function(*arguments, **options))

    def model_name(self, asked: str | None) -> str:
        """The name of the model to answer with; ApiError for one that is not served."""
        if asked is None:
            return self.config.models[0]
        if asked not in self.config.models:
            raise ApiError(
                404,
                f"the model {asked[:200]!r} is not served here; ask for {self.config.models[0]!r}",
                param="model",
                code="model_not_found",
            )
        return asked

    def mode(self, fields: Sampled, most_new: int | None) -> Mode:
        """How a request is answered. One that names no mode and leaves no room for a block and its end has none."""
        if fields.mode is not None:
            return fields.mode
        usual = self.config.mode
        if usual == "auto":
            usual = "parallel" if self.driver.has_tags else "autoregressive"
        return "autoregressive" if most_new is not None and most_new <= RESERVE else usual

    def suffix(self, named: str | None, mode: Mode) -> str:
        """What the last message of the user ends with."""
        if named is not None or not self.config.suffixes:
            return named or ""
        return SUFFIXES["autoregressive" if mode == "autoregressive" else "multiverse"]

    async def chat_prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        key: str,
        mode: Mode,
        suffix: str | None,
        options: Mapping | None,
    ) -> Prompt:
        """The prompt of a conversation."""
        if not any(message["role"] == "user" for message in messages):
            raise ApiError(400, "the conversation needs a message of the user", param="messages")
        prompt = self.conversations.prompt
        settings = {"mode": mode, "suffix": self.suffix(suffix, mode), "template_options": options or {}}
        return await self.tokenizing(prompt, messages, key=key, **settings)

    def encode(self, text: str, special: bool | None = None) -> list[int]:
        """Token ids of a text, behind the token that begins texts where the vocabulary adds one (or as asked for)."""
        tokenizer = self.tokenizer
        begins = tokenizer.settings.others.get("add_bos_token", False) if special is None else special
        head = [tokenizer.bos_id] if begins and tokenizer.bos_id is not None else []
        return [*head, *tokenizer.encode(text)]

    async def prompt_logprobs(self, prompt: Prompt, alternatives: int) -> list[TokenLogProb | int]:
        """Of the tokens of a prompt; the first, of which there is no probability, is an id alone."""
        tokens = prompt.tokens
        scores = await asyncio.wrap_future(self.driver.run(lambda: self.scorer.score(tokens)))
        ids_TK, top_TK = scores.top_id[:, :alternatives].tolist(), scores.top[:, :alternatives].tolist()
        tops = (tuple(zip(*its)) for its in zip(ids_TK, top_TK))
        return [tokens[0], *map(TokenLogProb, tokens[1:], scores.token.tolist(), tops)]

    def remember(self, messages: Sequence[Mapping[str, Any]], choice: Choice, key: str) -> None:
        """Keep an answer for the conversation's next turn, which is read after this."""
        result = choice.result
        if result is None or choice.text.stopped is not None or result.reason not in ("stop", "tokens", "positions"):
            return
        its = messages, choice.content, choice.question.prompt, result
        kept = self._tokenizing.submit(self.conversations.remember, *its, key=key)
        kept.add_done_callback(report)

    def most_new(self, prompt: Prompt, named: int | None, default: int | None, most_positions: int | None) -> int:
        """New tokens that an answer may have: as many as named, or the default as far as there is room.

        Raises:
            ApiError: there is no room for the prompt and this many.
        """
        count, driver = len(prompt.tokens), self.driver
        room = driver.max_slots - count
        if driver.max_position is not None:
            positions = driver.max_position - 1 - prompt.last_position
            if most_positions is None or most_positions > positions:
                room = min(room, positions)
        wanted = (1 if default is None else default) if named is None else named
        if room < 1 or (named is not None and named > room):
            raise ApiError(
                400,
                f"this model's maximum context length is {count + room} tokens; the prompt has {count} and "
                f"{wanted} more were asked for; shorten it, or lower max_tokens",
                param="messages" if room < 1 else "max_tokens",
                code="context_length_exceeded",
            )
        return named if named is not None else room if default is None else min(default, room)

    def count(self, prompts: int, n: int | None) -> int:
        """Answers to each prompt; ApiError for more than there may be."""
        n, most = 1 if n is None else n, self.config.most_choices
        if prompts * n > most:
            what = f"n = {n}" if prompts == 1 else f"{prompts} prompts with n = {n}"
            raise ApiError(400, f"{what}: one call gets at most {most} answers", param="n")
        return n

    def stops(self, stop: str | Sequence[str] | None) -> list[str]:
        """Stop strings; ApiError where one is empty or there are too many."""
        stops = [stop] if isinstance(stop, str) else list(stop or ())
        if not all(stops):
            raise ApiError(400, "stop: a stop string is empty", param="stop")
        if len(stops) > self.config.most_stops:
            raise ApiError(400, f"stop: {len(stops)} strings; give at most {self.config.most_stops}", param="stop")
        return stops

    def check_logprobs(self, name: str, alternatives: int | None) -> None:
        """ApiError where a request wants log-probabilities that the engine does not keep."""
        kept = self.driver.config.logprobs
        if alternatives is not None and (kept is None or alternatives > kept):
            what = "none are kept here" if kept is None else f"{kept} alternatives are kept here"
            raise ApiError(400, f"{name} = {alternatives}: {what} (mvjax serve --logprobs)", param=name)

    def questions(self, fields: Sampled, prompts: Sequence[Prompt], n: int, mode: Mode, **most) -> list[Question]:
        """What to ask the engine: n answers to each prompt, with seeds that rise by one.

        Args:
            most: named, default: see `most_new`.
        """
        config, seed = self.driver.config, secrets.randbits(63)
        questions: list[Question] = []
        for prompt in prompts:
            new = self.most_new(prompt, most_positions=fields.max_positions, **most)
            limits = fields.limits(new, config.max_paths, config.max_depth)
            limits = limits.validate(config.max_paths, config.max_depth, mode)
            for index in range(n):
                sampling = fields.sampling(index, self.config.temperature, seed)
                questions.append(Question(prompt, limits, sampling, mode))
        return questions

    def generation(
        self,
        questions: Sequence[Question],
        fields: Sampled,
        request_id: str,
        *,
        stop: Sequence[str] = (),
        logprobs: bool = False,
    ) -> Generation:
        """Ask the engine."""
        return Generation(
            self.driver,
            questions,
            request_id=request_id,
            stop=stop,
            branches=fields.branches or "apart",
            most_unread=self.config.most_unread if fields.stream else None,
            deadline=self.config.deadline,
            text_options={"logprobs": logprobs, "vocabulary": self.vocabulary},
        )


def report(done: Future) -> None:
    """Log what made a task fail that nobody waits for."""
    if not done.cancelled() and (error := done.exception()) is not None:
        logger.error("an answer was not kept for the next turn", exc_info=error)
