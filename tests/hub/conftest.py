"""A double of the hub, and an empty cache, for huggingface_hub in this process."""

import pytest
from hub_double import HubDouble, serve


@pytest.fixture
def cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "hub-cache"


@pytest.fixture
def hub(cache, monkeypatch):
    with HubDouble() as double:
        serve(monkeypatch, double.url)
        yield double
