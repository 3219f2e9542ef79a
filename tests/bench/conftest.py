"""A toy model, and one engine for all benchmarks of it: compiling the engine's loop is most of the time."""

import pytest
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.bench import scripted
from mvjax.models import load as loading

SLOTS, ROWS, STEPS = 160, 2, 24


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A GGUF file of a model with two layers and a vocabulary of bytes."""
    config = tiny_config(hidden_size=32, intermediate_size=64, max_position_embeddings=2048)
    path = tmp_path_factory.mktemp("toy") / "toy.gguf"
    return write_gguf_model(path, config, tiny_tensors(config))


@pytest.fixture(scope="session")
def loaded(toy):
    """Its tokenizer and step model."""
    return loading.load_for_generation(toy)


@pytest.fixture(scope="session")
def scripts(loaded):
    """An engine with scripts of one and of two paths, compiled for two rows only."""
    tokenizer, model = loaded
    plans = [(1, STEPS), (2, STEPS)]
    return scripted.scripted_engine(model, model.params, tokenizer, plans, SLOTS, ROWS, (ROWS,))


@pytest.fixture
def shared(monkeypatch, loaded, scripts):
    """Lets the benchmarks use that engine instead of compiling their own; they must ask for one like it."""
    engine, made = scripts

    def give(model, params, tokenizer, plans, slots, rows, row_counts):
        assert (model, slots, rows, row_counts) == (loaded[1], SLOTS, ROWS, (ROWS,))
        return engine, [next(s for s in made if (s.paths, s.steps) == plan) for plan in plans]

    for room in ("engine", "parallel"):
        monkeypatch.setattr(f"mvjax.bench.{room}.scripted_engine", give)
    monkeypatch.setattr(loading, "load_for_generation", lambda *_, **__: loaded)
    return {"slots": SLOTS, "max_branches": ROWS, "row_counts": (ROWS,), "repeat": 2}
