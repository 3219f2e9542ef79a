"""What weights, keys and values in fewer bits cost: likelihood of held-out text, and how often the likeliest token is
the same.

The text, questions of GSM8K and their solutions, goes through the engine's own model as prompts do: a token sees the
rounded keys and values of those before it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mvjax.bench.config import QuantisedBench
from mvjax.bench.report import Report
from mvjax.models.decode import DecoderStepModel


class Read(NamedTuple):
    """What a model makes of documents, row by row; rows behind a document's end mean nothing."""

    log_prob_BT: Float[np.ndarray, "B T"]
    """Of the token that follows, in nats."""
    likeliest_BT: Int[np.ndarray, "B T"]
    """The likeliest next token."""


def measure(config: QuantisedBench, report: Report, say: Callable[[str], None]) -> None:
    """Fill the report: a row per pair of formats, the first of which the others are compared with."""
    from mvjax.models.load import open_with_tags

    tokenizer, checkpoint = open_with_tags(config.model, config.tokenizer)
    documents = [tokenizer.encode(text)[: config.tokens] for text in texts(config)]
    tokens_BT = np.zeros((len(documents), max(map(len, documents))), np.int32)
    counted_BT = np.zeros(tokens_BT.shape, bool)
    for row, ids in enumerate(documents):
        tokens_BT[row, : len(ids)], counted_BT[row, : len(ids) - 1] = ids, True
    exact = None
    pairs = [(weights, kv) for weights in config.weights for kv in config.kv]
    for weight_dtype, kv_dtype in [("auto", "auto"), *(pair for pair in pairs if pair != ("auto", "auto"))]:
        say(f"weights {weight_dtype}, keys and values {kv_dtype}")
        formats = {"weight_dtype": weight_dtype, "kv_dtype": kv_dtype}
        model = DecoderStepModel.from_checkpoint(checkpoint, page_size=128, **formats)
        found = read(model, tokens_BT, config.together)
        exact = exact or found
        report.rows.append(compared(weight_dtype, kv_dtype, exact, found, counted_BT))
    report.notes.append(
        f"{len(documents)} documents, {counted_BT.sum()} tokens; in brackets 95 % intervals over documents; loss more: "
        "nats a token beyond auto's, paired by document; agreement: the likeliest token is that of auto"
    )


def texts(config: QuantisedBench) -> list[str]:
    """Questions with their solutions, without GSM8K's notes of the calculator."""
    if config.data is None:
        lines = (files("mvjax") / "assets" / "gsm8k_sample.jsonl").read_text(encoding="utf-8").splitlines()
    else:
        lines = config.data.read_text(encoding="utf-8").splitlines()
    problems = list(map(json.loads, filter(str.strip, lines)))[: config.documents]
    return [f"{problem['question']}\n{problem['answer'].rpartition('####')[0].strip()}" for problem in problems]


def read(model: DecoderStepModel, tokens_BT: Int[np.ndarray, "B T"], together: int) -> Read:
    """Documents read as prompts, `together` of them side by side."""
    count, length = tokens_BT.shape
    pages, parts = -(-length // model.page_size), []
    row = jnp.arange(together, dtype=jnp.int32)
    table_RM = 1 + jnp.arange(together * pages, dtype=jnp.int32).reshape(together, pages)
    hide_RES = jnp.zeros((together, 0, pages * model.page_size), jnp.int32)

    @jax.jit
    def program(params: Any, tokens_RT: Array) -> tuple[Array, Array]:
        kv = model.with_table(model.init_pages(1 + together * pages), table_RM)
        position_RT = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), tokens_RT.shape)
        chunks = tokens_RT, position_RT, hide_RES, hide_RES, row, row * 0, row * 0 + length
        logits_RTV = model.next_logits(params, model.read_chunks(params, kv, *chunks)[0]).reshape(*tokens_RT.shape, -1)
        next_RT1 = jnp.roll(tokens_RT, -1, axis=1)[..., None]
        chosen_RT = jnp.take_along_axis(logits_RTV, next_RT1, axis=2)[..., 0]
        return chosen_RT - jax.nn.logsumexp(logits_RTV, axis=2), logits_RTV.argmax(axis=2)

    for first in range(0, count, together):
        chunk_RT = np.zeros((together, length), np.int32)
        chunk_RT[: len(tokens_BT[first : first + together])] = tokens_BT[first : first + together]
        parts.append(jax.device_get(program(model.params, chunk_RT)))
    return Read(*(np.concatenate(part)[:count] for part in zip(*parts)))


def compared(weight_dtype: str, kv_dtype: str, exact: Read, found: Read, counted_BT: np.ndarray) -> dict:
    """A row of the report: perplexity, loss beyond that of the exact model, agreement."""
    weight_B = counted_BT.sum(axis=1)

    def mean(value_BT: np.ndarray) -> tuple[float, float]:
        """Over all counted tokens, and half of a 95 % interval that takes documents for the sample."""
        sum_B = np.where(counted_BT, value_BT, 0).sum(axis=1)
        ratio = sum_B.sum() / weight_B.sum()
        spread_B = (sum_B - ratio * weight_B) / weight_B.mean()
        return float(ratio), float(1.96 * spread_B.std(ddof=1) / np.sqrt(len(weight_B)))

    loss, _ = mean(-found.log_prob_BT)
    more, more_half = mean(exact.log_prob_BT - found.log_prob_BT)
    same, same_half = mean(exact.likeliest_BT == found.likeliest_BT)
    return {
        "weights": weight_dtype,
        "keys and values": kv_dtype,
        "perplexity": float(np.exp(loss)),
        "loss more": f"{more:+.5f} ({more - more_half:+.5f} to {more + more_half:+.5f})",
        "agreement": f"{same:.4f} ({same - same_half:.4f} to {min(1.0, same + same_half):.4f})",
    }
