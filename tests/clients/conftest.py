"""Clients of others against a real server: these tests run with `-m clients` only."""

import pytest
from serve_process import NAME, Server
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model


def pytest_collection_modifyitems(config, items):
    """Whatever else is selected: clients are asked for by their name."""
    if "clients" in (config.option.markexpr or "").replace("not clients", ""):
        return
    others = [item for item in items if item.get_closest_marker("clients")]
    items[:] = [item for item in items if not item.get_closest_marker("clients")]
    config.hook.pytest_deselected(items=others)


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A GGUF file of a model with two layers, random weights and a vocabulary of bytes."""
    config = tiny_config(hidden_size=32, intermediate_size=64, max_position_embeddings=32768)
    return write_gguf_model(tmp_path_factory.mktemp("toy") / "toy.gguf", config, tiny_tensors(config))


@pytest.fixture(scope="session")
def server(toy, tmp_path_factory):
    """Of that model, with blocks."""
    sizes = ("--max-requests", 4, "--max-branches", 4, "--max-length", 16384, "--logprobs", 5, "--max-tokens", 100)
    words = ("--model", toy, "--served-model-name", NAME, "--mode", "parallel", *sizes)
    server = Server(words, tmp_path_factory.mktemp("server") / "log.txt")
    yield server
    assert server.metric("mvjax:cold_compilations_total") == 0
    assert server.metric("vllm:num_requests_running") == 0
    assert server.end() == 0, server.log.read_text()
    assert "Traceback" not in server.log.read_text(), server.log.read_text()
