"""The engine with a real decoder: its logits are those of training, and the schedule does not matter."""

import dataclasses
import types

import numpy as np
import pytest
from flax import nnx
from random_requests import TABLES, VOCABULARY, limits_of, random_prompt, random_rules

from mvjax.engine import Engine, EngineConfig, SamplingParams
from mvjax.evaluation.consistency import Checker, ConsistencyReport, RecordingModel
from mvjax.models import Decoder, from_hf
from mvjax.models.decode import DecoderStepModel

CONFIG = from_hf(
    {
        "model_type": "qwen3",
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
    }
)


@pytest.fixture(scope="module")
def checker():
    decoder = Decoder(CONFIG, rngs=nnx.Rngs(params=3))
    model = RecordingModel(DecoderStepModel(decoder))
    # Without an end of text, which would end most random transcripts before their first block.
    endless = dataclasses.replace(TABLES, eos_ids=())
    engine = Engine(
        model, model.params, endless, EngineConfig(requests=1, max_branches=4, row_counts=(1, 4), max_slots=1280)
    )
    return Checker(engine, decoder, types.SimpleNamespace(tables=lambda: TABLES))


@pytest.mark.parametrize("transcripts", [8, pytest.param(48, marks=pytest.mark.slow)])
def test_engine_equals_training_on_random_transcripts(checker, transcripts):
    """Nested, cut, abandoned and queued paths: near-uniform sampling from a random model visits all of the grammar."""
    rng = np.random.default_rng(8)
    results, found = [], ConsistencyReport()
    for seed in range(transcripts):
        prompt, limits = random_prompt(rng), limits_of(random_rules(rng))
        if seed % 2:  # A map of tags at random takes a hundred tokens or more.
            limits = dataclasses.replace(limits, max_new_tokens=1000, max_positions=None, max_depth=3)
        sampling = SamplingParams(temperature=4.0, seed=seed)
        result = checker.engine.generate([prompt], limits=limits, sampling=sampling)[0]
        found += checker.check(prompt, result, limits=limits, sampling=sampling)
        results.append(result)
    assert found.transcripts == transcripts
    assert found.compared > 1000
    assert found.largest_error < 2e-5
    assert found.contradictions == 0
    assert found.schedules == found.same_tokens + found.schedule_ties
    assert found.schedules > 4
    assert max(len(result.parent) for result in results) > 6
    assert any(result.cuts for result in results)
    assert any(result.abandoned for result in results)


def test_a_wrong_logit_is_found(checker):
    """The comparison is no formality: change one weight of the training model and it fails."""
    rng = np.random.default_rng(9)
    prompt, limits = random_prompt(rng), limits_of(random_rules(rng))
    sampling = SamplingParams(temperature=4.0, seed=1)
    other = nnx.clone(checker.decoder)
    other.norm.weight[...] = other.norm.weight[...].at[0].add(0.1)
    suspicious = Checker(checker.engine, other, checker.tokenizer)
    result = checker.engine.generate([prompt], limits=limits, sampling=sampling)[0]
    assert suspicious.check(prompt, result, limits=limits, sampling=sampling).largest_error > 1e-4
