"""A local model that reads: log-probabilities and hidden states of many documents, in one forward pass each.

Documents are padded to few lengths and read in batches of few shapes, so that few programs are compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Int32

from mvjax.models.decoder import Decoder
from mvjax.models.rotary import rotary_tables
from mvjax.tokenizers import Tokenizer

BATCH = 2048
"""Tokens of a batch, padding included; a longer document is a batch of its own."""
SHORTEST = 128
"""Length that shorter documents are padded to."""
LEVELS = 2
"""Levels of hidden intervals that a batch has at least."""
PICKED = 256
"""Rows whose logits exist at the same time; picked rows are padded to multiples of it."""


@dataclass(frozen=True, eq=False)
class Sheet:
    """One document as the decoder reads it."""

    tokens: Int32[np.ndarray, "T"]
    """Token ids."""
    position: Int32[np.ndarray, "T"]
    """Rotary position of each."""
    hide_start: Int32[np.ndarray, "E T"]
    """Per level, the first row from which the token is hidden, counted in the document."""
    hide_end: Int32[np.ndarray, "E T"]
    """The row after the last; an unused level is [0, 0)."""


class LocalModel:
    """A decoder with its tokenizer.

    Attributes:
        tokenizer: with control tags.
        decoder: on one device, adapters merged or not.
    """

    def __init__(self, tokenizer: Tokenizer, decoder: Decoder):
        self.tokenizer, self.decoder = tokenizer, decoder
        self.tables = tokenizer.tables()
        self._graphdef, self._state = nnx.split(decoder)
        self._log_probs = jax.jit(self._read_log_probs)
        self._states = jax.jit(self._read_states, static_argnums=6)

    @classmethod
    def load(cls, path: Path, adapter: Path | None = None, tokenizer: Path | None = None) -> LocalModel:
        """The model of a GGUF file, a Hugging Face directory or an Orbax directory, an adapter merged into it.

        tokenizer: where the tokenizer is, if not beside or inside the weights.

        Raises:
            UserError: a file is missing, damaged or does not belong to the others.
        """
        from mvjax.models.load import load_with_tags
        from mvjax.models.lora import merge

        dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
        words, decoder = load_with_tags(path, adapter=adapter, tokenizer=tokenizer, dtype=dtype, param_dtype=dtype)
        if adapter is not None:
            merge(decoder)
        return cls(words, decoder)

    def log_probs(
        self,
        sheets: Sequence[Sheet],
        targets: Sequence[tuple[np.ndarray, np.ndarray]],
        say: Callable[[str], None] = lambda _: None,
    ) -> list[Float[np.ndarray, "N"]]:
        """Log-probabilities in nats.

        Args:
            targets: for each sheet the rows that predict, [N], and the token ids that they are to predict, [N].
            say: called with lines about the progress.
        """
        found: list[np.ndarray] = [np.zeros(0, np.float32)] * len(sheets)
        rows = [source_N for source_N, _ in targets]
        for members, arrays, picks in _batches(sheets, rows, say):
            tokens_P = np.zeros(_rounded(len(picks)), np.int32)
            tokens_P[: len(picks)] = np.concatenate([targets[member][1] for member in members])
            count = np.int32(len(picks))
            values_P = np.asarray(self._log_probs(self._state, *arrays, _padded(picks), tokens_P, count))
            _spread(found, members, rows, values_P)
        return found

    def states(
        self,
        sheets: Sequence[Sheet],
        rows: Sequence[np.ndarray],
        layers: Sequence[int],
        say: Callable[[str], None] = lambda _: None,
    ) -> list[Float[np.ndarray, "N L D"]]:
        """Hidden states of some rows of each sheet behind some layers, float32.

        Args:
            rows: for each sheet the rows wanted, [N].
            layers: 0 is the embedding, l what leaves the l-th block (before the last norm).
        """
        width = self.decoder.config.embed
        found: list[np.ndarray] = [np.zeros((0, len(layers), width), np.float32)] * len(sheets)
        for members, arrays, picks in _batches(sheets, rows, say):
            values_PLD = np.asarray(self._states(self._state, *arrays, _padded(picks), tuple(layers)))
            _spread(found, members, rows, values_PLD)
        return found

    def _read_log_probs(self, state, tokens_BT, positions_BT, start_BET, end_BET, picks_P, targets_P, count):
        decoder = nnx.merge(self._graphdef, state)
        hidden_BTD = decoder.hidden(tokens_BT, positions_BT, start_BET, end_BET)
        hidden_PD = hidden_BTD.reshape(-1, hidden_BTD.shape[-1])[picks_P]

        def chunk(i, out_P):
            rows = i * PICKED
            logits_CV = decoder.logits(jax.lax.dynamic_slice_in_dim(hidden_PD, rows, PICKED))
            target_C1 = jax.lax.dynamic_slice_in_dim(targets_P, rows, PICKED)[:, None]
            value_C = jnp.take_along_axis(logits_CV, target_C1, axis=1)[:, 0] - jax.nn.logsumexp(logits_CV, axis=1)
            return jax.lax.dynamic_update_slice_in_dim(out_P, value_C, rows, axis=0)

        return jax.lax.fori_loop(0, -(-count // PICKED), chunk, jnp.zeros(picks_P.shape, jnp.float32))

    def _read_states(self, state, tokens_BT, positions_BT, start_BET, end_BET, picks_P, layers):
        decoder = nnx.merge(self._graphdef, state)
        return hidden_by_layer(decoder, tokens_BT, positions_BT, start_BET, end_BET, picks_P, layers)


def hidden_by_layer(
    decoder: Decoder,
    tokens_BT: Int[Array, "B T"],
    positions_BT: Int[Array, "B T"],
    start_BET: Int[Array, "B E T"],
    end_BET: Int[Array, "B E T"],
    picks_P: Int[Array, "P"],
    layers: tuple[int, ...],
) -> Float[Array, "P L D"]:
    """Hidden states of the picked rows, counted through the batch, behind each of some layers (see `states`)."""
    x_BTD = decoder.embed_tokens.lookup(tokens_BT, decoder.dtype)
    context = (*rotary_tables(decoder.config, positions_BT), start_BET, end_BET)

    def picked(x_BTD):
        return x_BTD.reshape(-1, x_BTD.shape[-1])[picks_P].astype(jnp.float32)

    kept = [picked(x_BTD)[None]]
    if decoder.config.scan_layers:
        graphdef, stacked = nnx.split(decoder.layers)

        def step(x_BTD, state):
            x_BTD = nnx.merge(graphdef, state)(x_BTD, *context)
            return x_BTD, picked(x_BTD)

        kept.append(jax.lax.scan(step, x_BTD, stacked)[1])
    else:
        for block in decoder.layers:
            x_BTD = block(x_BTD, *context)
            kept.append(picked(x_BTD)[None])
    return jnp.concatenate(kept)[jnp.array(layers)].swapaxes(0, 1)


def _batches(sheets: Sequence[Sheet], rows: Sequence[np.ndarray], say) -> Iterator[tuple[list[int], tuple, np.ndarray]]:
    """Sheets by number, their padded arrays [B, ...], and the wanted rows counted through the batch."""
    by_size: dict[int, list[int]] = {}
    for number, sheet in enumerate(sheets):
        if len(rows[number]):
            by_size.setdefault(size_of(len(sheet.tokens)), []).append(number)
    done, total = 0, sum(map(len, by_size.values()))
    for size, numbers in sorted(by_size.items()):
        height = 1 if len(numbers) == 1 else max(1, BATCH // size)
        for first in range(0, len(numbers), height):
            members = numbers[first : first + height]
            arrays = _stacked([sheets[member] for member in members], height, size)
            yield members, arrays, np.concatenate([rows[member] + row * size for row, member in enumerate(members)])
            done += len(members)
            say(f"{done} of {total} documents read")


def size_of(length: int) -> int:
    """The length that a document is padded to: 128, 192, 256, 384, 512, ..."""
    size = SHORTEST
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def _stacked(sheets: Sequence[Sheet], height: int, size: int) -> tuple[np.ndarray, ...]:
    """Tokens, positions and hidden intervals. Padding comes last, so that no row of a document sees any."""
    levels = max(LEVELS, *(len(sheet.hide_start) for sheet in sheets))
    tokens_BT, positions_BT = np.zeros((2, height, size), np.int32)
    start_BET, end_BET = np.zeros((2, height, levels, size), np.int32)
    for row, sheet in enumerate(sheets):
        depth, length = sheet.hide_start.shape
        tokens_BT[row, :length], positions_BT[row, :length] = sheet.tokens, sheet.position
        start_BET[row, :depth, :length], end_BET[row, :depth, :length] = sheet.hide_start, sheet.hide_end
    return tokens_BT, positions_BT, start_BET, end_BET


def _rounded(count: int) -> int:
    return -(-count // PICKED) * PICKED


def _padded(picks_N: np.ndarray) -> np.ndarray:
    return np.pad(picks_N, (0, _rounded(len(picks_N)) - len(picks_N))).astype(np.int32)


def _spread(found: list[np.ndarray], members: Sequence[int], rows: Sequence[np.ndarray], values_P: np.ndarray) -> None:
    """Hand the values of a batch's rows out to its sheets."""
    ends = np.cumsum([len(rows[member]) for member in members])
    for member, values in zip(members, np.split(values_P[: ends[-1]], ends[:-1]), strict=True):
        found[member] = values
