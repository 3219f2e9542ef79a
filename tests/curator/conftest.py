"""What the Curator's tests share."""

import pytest
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.curator.local_model import LocalModel


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A tiny local model that reads."""
    config = tiny_config(hidden_size=32, intermediate_size=64, max_position_embeddings=2048)
    path = tmp_path_factory.mktemp("toy") / "toy.gguf"
    return LocalModel.load(write_gguf_model(path, config, tiny_tensors(config)))
