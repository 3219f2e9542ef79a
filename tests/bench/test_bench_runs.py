"""Every benchmark at toy size: it runs, and what it reports is well formed. Nothing is said about time."""

import json
import math

import numpy as np
import pytest

from mvjax.bench import config as settings
from mvjax.bench import decode, engine, parallel, serving
from mvjax.bench.report import Report
from mvjax.bench.scripted import SAMPLED, drive, rows_of_steps
from mvjax.bench.timing import Spread
from mvjax.cli import bench
from mvjax.errors import UserError
from mvjax.language import tags


def finished(measure, config):
    """The report of a benchmark, seen to be writable and printable."""
    config.check()
    said = []
    report = Report(type(config).__name__, {})
    measure(config, report, said.append)
    assert said
    assert json.loads(json.dumps(report.to_dict()))["rows"]
    report.table()
    for row in report.rows:
        for value in row.values():
            if isinstance(value, Spread):
                assert value.low <= value.median <= value.high
                assert math.isfinite(value.low + value.high)
    return report


def bar(report, beginning):
    """The value of the one bar whose name begins so."""
    (found,) = [bar for bar in report.bars if bar.what.startswith(beginning)]
    return found.value


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [SAMPLED, engine.GREEDY])
def test_a_script_is_followed_to_the_letter(loaded, scripts, sampling):
    tokenizer, _ = loaded
    made, (plain, block) = scripts
    run = drive(made, block.prompt, block.limits, "parallel", sampling)
    result = run.result
    assert (result.reason, result.cuts, result.abandoned) == ("stop", {}, 0)
    assert block.slots == len(block.prompt) + result.new_tokens
    codes = tokenizer.tables().codes[result.tokens]
    assert [(codes == tag).sum() for tag in (tags.OUTLINE_OPEN, tags.PATH_OPEN, tags.PARALLEL_CLOSE)] == [2, 2, 1]
    assert np.bincount(result.segment)[1:].tolist() == [block.steps, block.steps]
    assert run.live.count(2) == block.steps
    assert len(run.live) == result.decode_steps == result.critical_path + 1
    assert drive(made, block.prompt, block.limits, "sequential", sampling).result.tokens.tolist() == (
        result.tokens.tolist()
    )
    text = drive(made, plain.prompt, plain.limits, plain.mode, sampling).result
    assert (text.reason, text.new_tokens, text.sampled) == ("stop", plain.steps, plain.steps)
    assert (tokenizer.tables().codes[text.tokens] == tags.TEXT).all()
    assert rows_of_steps(text) == [1] * (plain.steps + 1)


@pytest.mark.slow
def test_engine(toy, shared):
    many = {"requests": (1, 3), "prompt_tokens": 20, "new_tokens": 24}
    report = finished(engine.measure, settings.EngineBench(model=toy, rows=(1, 2), steps=24, **many, **shared))
    assert [(row["rows"], row["choice"]) for row in report.rows] == [
        (rows, choice) for rows in (1, 2) for choice in ("greedy", "sampled")
    ]
    for row in report.rows:
        assert row["engine/bare"].count == 2
        assert row["engine ms"].low > 0
        assert ("fork+reduce, steps" in row) == (row["rows"] == 2)
    assert all(row["idle steps"] == 0 for row in report.rows if row["rows"] == 2)
    assert bar(report, "programs compiled by the engine") == 0
    assert bar(report, "programs compiled by anybody") == 0
    assert bar(report, "copies of a KV stream buffer") == 0
    assert bar(report, "requests at once: programs compiled by the engine") == 0
    assert bar(report, "requests at once: programs compiled by anybody") == 0
    assert [row["requests"] for row in report.tables["requests at once"]] == [1, 3]
    for row in report.tables["requests at once"]:
        assert row["rows of a step"].low > row["requests"] - 1
        assert row["first token s"].median <= row["last one's s"].median
        assert row["step/bare"].count == 2
    assert json.dumps(report.to_dict()["tables"])


@pytest.mark.slow
def test_decode(toy, shared):
    report = finished(decode.measure, settings.DecodeBench(model=toy, rows=(1, 2), steps=24, torch=False, **shared))
    assert [row["rows"] for row in report.rows] == [1, 2]
    assert report.rows[0]["times one row"] == Spread(1.0, 1.0, 1.0, 2)
    for row in report.rows:
        per_second = row["rows"] * 1e3 / row["step ms"].high
        assert row["tokens/s"].low == pytest.approx(per_second)
    assert any("switched off" in note for note in report.notes)


@pytest.mark.slow
def test_parallel_with_scripts(toy, shared):
    chosen = settings.ParallelBench(model=toy, adapter="none", degrees=(2,), path_steps=24, **shared)
    report = finished(parallel.measure, chosen)
    (row,) = report.rows
    assert row["same tokens"] is True
    assert row["# parallel"].median == pytest.approx((13 + 2 * 24 + 4 - 1) / (13 + 24 + 4 - 1))
    assert row["speed-up"].count == row["bare bound"].count == 2
    assert row["efficiency"].low == pytest.approx(row["speed-up"].low / row["# parallel"].median)


def test_items_of_the_synthetic_family(toy, loaded):
    tokenizer, _ = loaded
    chosen = settings.ParallelBench(model=toy, items=2, slots=2000)
    items = parallel.synthetic_items(chosen, tokenizer, 4)
    assert [item.degree for item in items] == [4, 4]
    assert len({item.name for item in items}) == 2
    for item in items:
        assert "in parallel before answering." in tokenizer.decode(item.prompt)
        assert len(item.prompt) + item.limits.max_new_tokens + chosen.max_branches == 2000
    with pytest.raises(UserError, match="leaves no room"):
        parallel.synthetic_items(settings.ParallelBench(model=toy, slots=300), tokenizer, 4)


@pytest.mark.slow
def test_parallel_with_an_adapter(toy, tmp_path):
    from mvjax.models import LoraConfig, add_lora, save_adapter
    from mvjax.models.load import load_with_tags

    tokenizer, decoder = load_with_tags(toy)
    add_lora(decoder, LoraConfig(rank=1, alpha=1.0, tag_ids=tokenizer.tag_ids))
    save_adapter(tmp_path / "adapter.safetensors", decoder, metadata={"tokenizer": tokenizer.fingerprint})
    chosen = settings.ParallelBench(
        model=toy,
        adapter=str(tmp_path / "adapter.safetensors"),
        degrees=(2,),
        items=2,
        slots=700,
        max_branches=2,
        row_counts=(2,),
        repeat=1,
    )
    chosen.check()
    report = Report("parallel", {})
    parallel.measure(chosen, report, lambda _: None)
    # What the random model writes is its own affair; blocks with more paths than rows are left out.
    left_out = sum("had to wait for rows" in note for note in report.notes)
    assert sum(row["items"] for row in report.rows) + left_out == 2
    assert all(row["same tokens"] for row in report.rows)


@pytest.mark.slow
def test_serving(toy):
    config = settings.ServingBench(
        repeat=1,
        model=toy,
        concurrency=(1, 3),
        mode="autoregressive",
        adapter="none",
        prompt_tokens=20,
        new_tokens=24,
        slots=160,
        max_branches=2,
    )
    report = finished(serving.measure, config)
    assert [(row["mode"], row["requests"], row["tokens"]) for row in report.rows] == [
        ("autoregressive", 1, 24),
        ("autoregressive", 3, 72),
    ]
    assert bar(report, "programs compiled after ready") == 0
    assert bar(report, "stays from a disconnect to free pages") <= serving.CANCEL_BAR
    assert not [note for note in report.notes if "other numbers of tokens" in note]


@pytest.mark.slow
def test_decode_beside_transformers(toy, shared):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    report = finished(decode.measure, settings.DecodeBench(model=toy, rows=(1,), steps=24, **shared))
    assert [row["side"] for row in report.rows] == ["mvjax", "transformers"]
    assert bar(report, "one row over transformers").count == 2


@pytest.mark.slow
def test_training_beside_transformers(toy, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    chosen = settings.TrainingBench(model=toy, row_length=1024, rank=2, degree=2, repeat=2, output=tmp_path)
    bench.run(chosen)
    rows = json.loads((tmp_path / "training.json").read_text())["rows"]
    assert [row["side"] for row in rows] == ["mvjax", "transformers"]
    assert rows[0]["loss of the first step"] == pytest.approx(rows[1]["loss of the first step"], rel=1e-4)


@pytest.mark.slow
def test_memory_beside_transformers(toy, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    chosen = settings.MemoryBench(model=toy, lengths=(1024, 2048), rank=2, degree=2, output=tmp_path)
    bench.run(chosen)
    rows = json.loads((tmp_path / "memory.json").read_text())["rows"]
    assert [row["T"] for row in rows] == [1024, 2048]
    # The dense mask alone is T x T numbers; with the logits of all tokens it dwarfs what we hold.
    assert all(row["transformers GiB"] > row["mvjax GiB"] > 0 for row in rows)
