"""How many pages there are: what a device's memory holds, or what requests have use for."""

import types

import pytest
from hash_model import PagedHashModel

from mvjax.engine import EngineConfig, kv_memory
from mvjax.errors import UserError

PAGE_BYTES = 2 * 16 * 4  # Tokens and positions of 16 slots.
SIZES = {"requests": 3, "max_slots": 100}  # Seven pages each.


@pytest.fixture
def model():
    return PagedHashModel([0.0] * 8, 16)


@pytest.fixture
def device(monkeypatch):
    """Stands for the device that arrays lie on; its figures may be changed."""
    made = types.SimpleNamespace(platform="gpu", stats={"bytes_limit": 1000 * PAGE_BYTES, "bytes_in_use": 0})
    made.memory_stats = lambda: made.stats
    monkeypatch.setattr(kv_memory, "default_device", lambda: made)
    return made


def test_the_number_that_is_given(model):
    assert kv_memory.page_count(model, EngineConfig(**SIZES, pages=5)) == 5


def test_on_a_device_that_says_what_it_has_pages_fill_it_whatever_the_requests(model, device):
    # 900 pages, rounded down to five binary digits.
    assert kv_memory.page_count(model, EngineConfig(**SIZES)) == 896
    assert kv_memory.page_count(model, EngineConfig(**SIZES, memory=0.5)) == 496
    device.stats["bytes_in_use"] = 400 * PAGE_BYTES  # Weights.
    assert kv_memory.page_count(model, EngineConfig(**SIZES)) == 496
    device.stats["bytes_in_use"] = 870 * PAGE_BYTES
    assert kv_memory.page_count(model, EngineConfig(**SIZES)) == 30


def test_no_room_for_a_page_is_one_line(model, device):
    device.stats["bytes_in_use"] = 900 * PAGE_BYTES
    with pytest.raises(UserError, match=r"^a page of 16 slots takes .*; raise EngineConfig.memory"):
        kv_memory.page_count(model, EngineConfig(**SIZES))


def test_on_a_cpu_pages_are_no_more_than_requests_have_use_for(model, monkeypatch):
    assert kv_memory.host_bytes() > 2**20
    assert kv_memory.page_count(model, EngineConfig(**SIZES)) == 21
    monkeypatch.setattr(kv_memory, "host_bytes", lambda: 10 * PAGE_BYTES)
    assert kv_memory.page_count(model, EngineConfig(**SIZES)) == 9
    monkeypatch.setattr(kv_memory, "host_bytes", lambda: 2**40)
    monkeypatch.setattr(kv_memory, "HOST_BYTES", 12 * PAGE_BYTES)
    assert kv_memory.page_count(model, EngineConfig(**SIZES)) == 12


def test_devices_that_share_a_model_share_its_pages(model, device):
    other = types.SimpleNamespace(platform="gpu", memory_stats=lambda: {"bytes_limit": 500 * PAGE_BYTES})
    model.replicated = types.SimpleNamespace(device_set=[device, other])
    # The one with less memory decides: twice 450.
    assert kv_memory.page_count(model, EngineConfig(**SIZES)) == 896
