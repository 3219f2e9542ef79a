"""The engine's Python API with a model whose logits are a random table: stops, limits, queue, streaming, errors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvjax.engine.engine import Engine
from mvjax.engine.limits import EngineConfig, Limits, SamplingParams
from mvjax.language import tags
from mvjax.language.layout import lay_out

WORDS = ["\n", ":", ".", *map(str, range(1, 10)), "a", "b", "c", "d:", "e\n", "f"]
EOS = len(WORDS)
FIRST_TAG = EOS + 1
VOCAB = FIRST_TAG + len(tags.TAGS)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    codes: np.ndarray
    colon: np.ndarray
    newline: np.ndarray
    separator_id: int = 0
    colon_id: int = 1
    dot_id: int = 2
    number_ids: tuple = tuple(tuple(2 + int(digit) for digit in str(n).replace("0", "1")) for n in range(1, 65))
    eos_ids: tuple = (EOS,)


def vocabulary(with_tags=True):
    codes = np.full(VOCAB, -1, np.int8)
    if with_tags:
        codes[FIRST_TAG:] = np.arange(len(tags.TAGS))
    texts = [*WORDS, "<eos>", *tags.TAGS]
    return Vocabulary(codes, np.array([":" in text for text in texts]), np.array(["\n" in text for text in texts]))


class TableModel:
    """Logits looked up by a hash of token and position in a random table; the stream only records the tokens."""

    vocab_size = VOCAB
    max_position = 100_000

    def init_stream(self, requests, slots):
        return jnp.full((requests, slots), -1, jnp.int32)

    def prefill(self, params, stream, tokens_T, positions_T, hide_start_ES, hide_end_ES, request, offset, length):
        tokens_T = jnp.where(jnp.arange(len(tokens_T)) < length, tokens_T, -1)
        return jax.lax.dynamic_update_slice(stream, tokens_T[None], (request, offset))

    def decode(self, params, stream, tokens_W, positions_W, rows, words_RS):
        slot_W = rows.start_R[rows.request_W] + rows.lane_W
        slot_W = jnp.where(rows.active_W, slot_W, stream.shape[1])
        stream = stream.at[rows.request_W, slot_W].set(tokens_W, mode="drop")
        # Reads what the row sees, so that a wrong visibility would show.
        bit_WS = (words_RS[rows.request_W] >> rows.lane_W[:, None].astype(jnp.uint32)) & 1
        seen_W = jnp.sum(jnp.where(bit_WS == 1, stream[rows.request_W] + 7, 0), axis=1)
        return params[(tokens_W * 31 + positions_W * 17 + seen_W * 13) % params.shape[0]], stream


def table(seed=0, eos=-2.0, tag=1.5):
    """Random logits, with tags made likelier so that blocks form, and the end of text less likely."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(509, VOCAB)).astype(np.float32)
    logits[:, EOS] += eos
    logits[:, FIRST_TAG:] += tag
    return jnp.asarray(logits)


SMALL = EngineConfig(requests=2, rows=4, row_counts=(8,), stream_step=256, sync_steps=16, prefill_chunks=(4, 16))
LIMITS = Limits(max_new_tokens=150, min_block_share=40, max_paths=4)
DRAWN = SamplingParams(temperature=1.0, seed=3)
PROMPT = [12, 13, 14, 12, 13]


@pytest.fixture(scope="module")
def engine():
    return Engine(TableModel(), table(), vocabulary(), SMALL)


def same(a, b):
    """Equal answers, whatever the schedule."""
    for name in ("tokens", "written", "segment", "position", "parent"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
    assert (a.reason, a.cuts, a.abandoned, a.barred) == (b.reason, b.cuts, b.abandoned, b.barred)


def test_transcripts_are_well_formed_and_laid_out_as_the_language_says(engine):
    prompts = [[*PROMPT, n % 9] for n in range(12)]
    samplings = [SamplingParams(temperature=1.0, seed=seed) for seed in range(12)]
    results = engine.generate(prompts, limits=LIMITS, sampling=samplings)
    assert sum(len(result.parent) > 1 for result in results) >= 6
    facts = vocabulary()
    for prompt, result in zip(prompts, results):
        tokens = np.array([*prompt, *result.tokens])
        layout = lay_out(
            facts.codes[tokens], facts.colon[tokens], len(prompt), engine_output=True, complete=True, max_depth=9
        )
        np.testing.assert_array_equal(layout.segment[len(prompt) :], result.segment)
        np.testing.assert_array_equal(layout.position[len(prompt) :], result.position)
        np.testing.assert_array_equal(layout.parent, result.parent)
        assert layout.critical_path == result.critical_path <= LIMITS.max_new_tokens
        assert result.new_tokens <= LIMITS.max_new_tokens
        assert result.sampled + result.written.sum() == result.new_tokens
