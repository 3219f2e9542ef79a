"""The batch of a step that was not finite."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_training import RandomBatches

from mvjax.data.schedule import BatchFacts, Document
from mvjax.training.bad_batches import BadBatches, read_bad_batch

METRICS = {"loss": float("nan"), "gradient_norm": float("inf"), "targets": 12.0, "finite": False}
FACTS = BatchFacts(
    rows=[[Document(7, "multiverse"), Document(2, "autoregressive")], [Document(5, "multiverse")]],
    tokens=90,
    efficiency=0.9,
    parallel=1.5,
)


def test_batch_documents_and_metrics_are_kept(tmp_path):
    batch = next(RandomBatches(rows=2))
    bad = BadBatches(tmp_path, name=lambda document: f"gsm8k-{document.record}")
    path = bad.save(12, METRICS, batch, FACTS)
    assert path == tmp_path / "bad-batches" / "step-12.json"
    record = json.loads(path.read_text())
    assert record["step"] == 12
    assert record["metrics"] == {"loss": None, "gradient_norm": None, "targets": 12.0, "finite": False}
    assert record["rows"] == [
        [{"name": "gsm8k-7", "form": "multiverse"}, {"name": "gsm8k-2", "form": "autoregressive"}],
        [{"name": "gsm8k-5", "form": "multiverse"}],
    ]
    arrays = tmp_path / "bad-batches" / "step-12-process-0.npz"
    for kept, array in zip(read_bad_batch(arrays), batch, strict=True):
        np.testing.assert_array_equal(kept, array)
        assert kept.dtype == array.dtype
    assert np.load(arrays)["rows"].tolist() == [0, 1]
    assert {path.name for path in path.parent.iterdir()} == {"step-12.json", "step-12-process-0.npz"}


def test_other_processes_write_their_rows_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 3)
    path = BadBatches(tmp_path, rows=(4, 6)).save(5, METRICS, next(RandomBatches(rows=2)), FACTS)
    assert path.name == "step-5.json"
    (arrays,) = path.parent.iterdir()
    assert arrays.name == "step-5-process-3.npz"
    assert np.load(arrays)["rows"].tolist() == [4, 6]


def test_batch_without_facts_has_no_documents(tmp_path):
    path = BadBatches(tmp_path).save(1, METRICS, next(RandomBatches()))
    assert json.loads(path.read_text())["rows"] == []


def test_no_room_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(path, **arrays):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space left"):
        BadBatches(tmp_path).save(1, METRICS, next(RandomBatches()), FACTS)
    assert not list((tmp_path / "bad-batches").iterdir())
