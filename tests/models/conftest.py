"""Tiny random models and the checkpoints under tests/fixtures/models."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from mvjax.models import Decoder, ModelConfig
from mvjax.models.tensors import hf_names, is_stacked
from mvjax.weights import Checkpoint

FIXTURES = Path(__file__).parents[1] / "fixtures" / "models"


@pytest.fixture
def fixture_checkpoint():
    """Reads a tiny model made by transformers: an object with config and tensors, as mvjax.weights gives."""

    def load(name):
        directory = FIXTURES / name
        config = json.loads((directory / "config.json").read_text())
        return Checkpoint(config, load_file(directory / "model.safetensors"), source=name)

    return load


@pytest.fixture
def fixture_expected():
    """Input ids and transformers' logits of a tiny model."""

    def load(name):
        with np.load(FIXTURES / name / "expected.npz") as file:
            return file["ids"], file["logits"]

    return load


@pytest.fixture
def tiny():
    """Builds a tiny decoder; a weight depends on its name and the seed alone, so scanned and unrolled ones agree."""

    def build(*, scan_layers=True, seed=0, **changes):
        fields = {"family": "llama", "vocab_size": 64, "embed": 32, "layers": 2, "heads": 4, "kv_heads": 2}
        fields |= {"head_dim": 8, "ffn": 48, "rms_eps": 1e-5}
        config = ModelConfig(**(fields | changes), scan_layers=scan_layers)
        graphdef, state = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(params=0))))

        def fill(path, variable):
            names = hf_names(path, config)
            stacked = is_stacked(path, config)
            shape = variable.shape[1:] if stacked else variable.shape
            rngs = [np.random.default_rng([seed, *name.encode()]) for name in names]
            arrays = [rng.normal(0, 0.2, shape) + ("norm" in name) for rng, name in zip(rngs, names)]
            whole = np.stack(arrays) if stacked else arrays[0]
            return variable.replace(jax.numpy.asarray(whole, variable.dtype))

        return nnx.merge(graphdef, nnx.map_state(fill, state))

    return build


@pytest.fixture
def causal():
    """Positions and hidden intervals of rows that hold one plain document each."""

    def make(batch, length):
        positions = np.tile(np.arange(length, dtype=np.int32), (batch, 1))
        start = np.full((batch, 1, length), length, np.int32)
        return positions, start, start

    return make


_run = nnx.jit(lambda decoder, *rows: decoder(*rows))


@pytest.fixture(scope="session")
def logits():
    """A decoder's logits, compiled once per shape."""
    return lambda decoder, *rows: np.asarray(_run(decoder, *rows))


@pytest.fixture
def tokens():
    """Random token ids of a tiny decoder, [2, 12], some of them 5, 9 and 60."""
    ids = np.random.default_rng(0).integers(0, 64, (2, 12)).astype(np.int32)
    ids[:, [2, 5, 7]] = (5, 9, 60)
    return ids
