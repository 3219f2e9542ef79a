"""Answers of the model in training to one prompt, as it learns."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mvjax.data.encode import Form, with_suffix
from mvjax.display.measures import shown
from mvjax.engine import Engine, EngineConfig, Limits, Mode
from mvjax.engine.result import Result
from mvjax.errors import UserError
from mvjax.files import atomic_path
from mvjax.language.tree import Block, Element, Text, Transcript
from mvjax.models import Decoder, ModelConfig
from mvjax.models.decode import DecoderStepModel
from mvjax.models.decode_params import decode_params
from mvjax.models.lora import is_adapted, merge
from mvjax.tokenizers import Tokenizer

STEP = 128
"""The stream's slots are a multiple of it."""


class Sampler:
    """At regular steps a short answer of the current parameters, printed with its tree and kept in DIRECTORY/samples.

    The engine is built and compiled once; each sample gives it the weights of the moment, on the first device of this
    process, and takes them away again: between samples only its small stream stays there. The training state is read,
    never changed or donated. Greedy, so that samples of different steps differ by what was learnt alone.

    Only a run of one process samples; of several, it says once that it does not.

    Args:
        config: of the decoder.
        join: the decoder with some parameters (`TrainableModel.join`).
        tokenizer: with control tags.
        directory: of the run.
        say: prints a text of several lines.
        every: steps between two samples; 0: there are none.
        prompt: what is asked.
        tokens: new tokens at most.
        form: of the prompt's suffix; "autoregressive" also opens no blocks.
        rows: branches that run at the same time.
        dtype: of weights and activations.

    Raises:
        UserError: the prompt with its new tokens is longer than the model's context, or there is no chat template.
    """

    def __init__(
        self,
        config: ModelConfig,
        join: Callable[[dict[str, jax.Array]], Decoder],
        tokenizer: Tokenizer,
        directory: Path,
        say: Callable[[str], None],
        *,
        every: int,
        prompt: str,
        tokens: int = 128,
        form: Form = "multiverse",
        rows: int = 8,
        dtype: Any = jnp.float32,
    ):
        self._every = every
        self._say, self._join, self._tokenizer = say, join, tokenizer
        self._directory, self._prompt = directory / "samples", prompt
        if every and jax.process_count() > 1:
            say("sample: none is generated in a run of several processes")
            self._every = 0
        if not self._every:
            return
        messages = [{"role": "user", "content": prompt}]
        self._ids = tokenizer.render_chat(with_suffix(messages, form))
        self._mode: Mode = "autoregressive" if form == "autoregressive" else "parallel"
        self._limits = Limits(max_new_tokens=tokens)
        slots = -(-(len(self._ids) + tokens + rows) // STEP) * STEP
        counts = tuple(sorted({1, rows}))
        model = DecoderStepModel.described(config, weight_dtype=dtype)
        pages = slots // model.page_size if model.page_size else None
        sizes = EngineConfig(requests=1, max_branches=rows, row_counts=counts, max_slots=slots, pages=pages)
        self._engine = Engine(model, None, tokenizer, sizes)
        self._take: Any = jax.jit(partial(weights, unroll=model.unroll, dtype=model.formats.weights), static_argnums=0)
        try:
            self._engine.check(self._ids, self._limits, mode=self._mode)
        except UserError as error:
            raise UserError(f"sample: {error}") from error

    def due(self, step: int) -> bool:
        """Whether a sample comes after this step."""
        return self._every > 0 and step % self._every == 0

    def __call__(self, step: int, params: dict[str, jax.Array]) -> None:
        """Generate, say and keep the sample of a step. Where devices have no room for it, it is the last one."""
        try:
            result = self._generate(params)
        except jax.errors.JaxRuntimeError as error:
            self._every = 0
            self._say(f"sample: no more of them ({' '.join(str(error).split())[:200]})")
            return
        decode = self._tokenizer.decode
        measures = (
            f"{result.new_tokens} tokens, critical path {result.critical_path}, # parallel {result.degree:.3f}, "
            f"finish {result.reason}"
        )
        tree = "\n".join(tree_lines(result.tree(), decode))
        with atomic_path(self._directory / f"{step}.txt") as temporary:
            text = f"step {step}: {measures}\n\n{self._prompt}\n\n{result.text}\n\n{tree}\n"
            temporary.write_text(text, encoding="utf-8")
        self._say(f"sample at step {step}: {measures}\n{tree}")

    def _generate(self, params: dict[str, jax.Array]) -> Result:
        try:
            self._engine.params = self._weights(params)
            return self._engine.generate([self._ids], limits=self._limits, mode=self._mode)[0].raise_if_failed()
        finally:
            self._engine.params = None

    def _weights(self, params: dict[str, jax.Array]) -> Any:
        """The engine's parameters, all on one device."""
        graphdef, state = nnx.split(self._join(params))
        return self._take(graphdef, jax.device_put(state, jax.local_devices()[0]))

    @property
    def compilations(self) -> int:
        """Programs compiled so far; it stands still once every kind of sample has been seen."""
        return self._engine.compilations + self._take._cache_size()


def weights(graphdef, state, *, unroll: bool, dtype) -> Any:
    """The engine's parameters of a decoder that was split."""
    decoder = nnx.merge(graphdef, state)
    return decode_params(merge(decoder) if is_adapted(decoder) else decoder, unroll=unroll, dtype=dtype)


def tree_lines(transcript: Transcript, decode: Callable[[list[int]], str], width: int = 96) -> list[str]:
    """A transcript of token ids as indented lines, texts in short: an element's first text stands on its own line."""

    def text_of(text: Text, room: int) -> str:
        tokens: Any = list(text.content)
        return shown(decode(tokens), room)

    lines, taken = [], set()
    for depth, node in transcript.walk():
        indent = "  " * depth
        room = max(24, width - len(indent))
        if isinstance(node, Text):
            if id(node) not in taken and (line := text_of(node, room)):
                lines.append(indent + line)
            continue
        first = node.children[0] if node.children else None
        name = title(node)
        if isinstance(first, Text) and not isinstance(node, Block):
            taken.add(id(first))
            name = f"{name} {text_of(first, room)}".rstrip()
        lines.append(indent + name + ("" if node.closed else " (open)"))
    return lines


def title(node: Element) -> str:
    """An element's name."""
    if isinstance(node, Block):
        number = len(node.paths)
        return "block, abandoned" if node.abandoned else f"block of {number} path{'s' * (number != 1)}"
    return type(node).__name__.lower()
