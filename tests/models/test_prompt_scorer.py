"""Log-probabilities of prompts: those of the training forward pass."""

import jax
import numpy as np
import pytest

from mvjax.engine.prompt_scorer import CHUNK, PromptScorer
from mvjax.errors import UserError
from mvjax.models import DecoderStepModel

LONGEST = 2 * CHUNK + 5


def test_scores_are_those_of_the_training_forward(tiny, causal, logits):
    decoder = tiny()
    model = DecoderStepModel(decoder)
    scorer, rng = PromptScorer(model, model.params, LONGEST, 3), np.random.default_rng(0)
    for length in (2, CHUNK, CHUNK + 1, LONGEST, 7):
        tokens = rng.integers(0, model.vocab_size, length).astype(np.int32)
        scores = scorer.score(tokens)
        padded = np.pad(tokens, (0, LONGEST - length))[None]  # one length, so that the forward is compiled once
        wanted_TV = np.asarray(jax.nn.log_softmax(logits(decoder, padded, *causal(1, LONGEST))[0]))[: length - 1]
        near = {"atol": 2e-5 * np.abs(wanted_TV).max(), "rtol": 0}
        np.testing.assert_allclose(scores.token, wanted_TV[np.arange(length - 1), tokens[1:]], **near)
        np.testing.assert_allclose(scores.top, -np.sort(-wanted_TV, axis=1)[:, :3], **near)
        np.testing.assert_allclose(np.take_along_axis(wanted_TV, scores.top_id, 1), scores.top, **near)
    assert [len(values) for values in scorer.score([1])] == [0, 0, 0]
    with pytest.raises(UserError, match=f"has {LONGEST + 1} tokens"):
        scorer.score([1] * (LONGEST + 1))


def test_models_that_cannot_be_read_so():
    with pytest.raises(UserError, match="on one device"):
        PromptScorer(object(), None, 10, 1)
