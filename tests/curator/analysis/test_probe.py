"""The probe: finds what is there to be found, and nothing where there is nothing."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mvjax.curator import local_model
from mvjax.curator.analysis import probe
from mvjax.curator.analysis.branch_points import read
from mvjax.curator.analysis.probe import Points
from mvjax.curator.local_model import LocalModel, Sheet
from mvjax.curator.sources.synthetic import SyntheticConfig, generate
from mvjax.models.checkpoint import from_checkpoint, to_checkpoint


@pytest.fixture(scope="module", autouse=True)
def one_size():
    """Documents of one length: few programs to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_model, "SHORTEST", 1536)
        yield


@pytest.fixture(scope="module")
def records():
    return list(generate(SyntheticConfig(degree=(2, 3), nesting=(0, 1), length=(1, 1)), 4))


@pytest.mark.parametrize("form", ["multiverse", "autoregressive"])
def test_rows_are_the_newlines(model, records, form):
    for record in records:
        sheet, rows, found = read(model, record, form, ("start", "line"))
        assert len(rows) == len(found)
        assert rows.max() == len(sheet.tokens) - 1
        for row, point in zip(rows, found, strict=True):
            before = model.tokenizer.decode(sheet.tokens[: row + 1])
            assert before.endswith("\n")
            text = record.response if form == "multiverse" else record.autoregressive
            assert before.endswith(text[: point.place + 1] if point.kind == "line" else "assistant\n")


def test_states_are_those_of_the_decoder(model, records):
    """Behind the last layer and the norm they are the decoder's own; layer 0 is the embedding; scanned and unrolled
    layers agree."""
    sheet, rows, _ = read(model, records[0], "multiverse", ("start", "line"))
    (states,) = model.states([sheet], [rows], (2, 0, 1))
    assert states.shape == (len(rows), 3, 32)
    arrays = [array[None] for array in (sheet.tokens, sheet.position, sheet.hide_start, sheet.hide_end)]
    hidden = np.asarray(nnx.jit(lambda decoder, *rows: decoder.hidden(*rows))(model.decoder, *arrays))[0, rows]
    np.testing.assert_allclose(np.asarray(model.decoder.norm(jnp.asarray(states[:, 0]))), hidden, atol=1e-4)
    np.testing.assert_array_equal(states[:, 1], np.asarray(model.decoder.embed_tokens.weight[...])[sheet.tokens[rows]])
    unrolled = LocalModel(model.tokenizer, from_checkpoint(to_checkpoint(model.decoder), scan_layers=False))
    np.testing.assert_allclose(unrolled.states([sheet], [rows], (2, 0, 1))[0], states, atol=1e-4)


def test_points_of_records(model, records):
    told = []
    found = probe.collect(model, records, (1,), say=told.append)
    assert [(points.form, points.kind) for points in found] == [
        ("multiverse", "start"), ("multiverse", "line"), ("autoregressive", "start"), ("autoregressive", "line"),
    ]  # fmt: skip
    assert any("autoregressive: 4 of 4 documents" in line for line in told)
    for points in found[:1] + found[2:3]:
        assert len(points.parallel) == 4
        assert not points.parallel.any()
    assert found[1].parallel.all()
    assert len(found[1].parallel) == sum(record.response.count("<Parallel>") for record in records)
    assert found[1].states.shape == (len(found[1].parallel), 1, 32)
    # All starts stand at the same two tokens: only the place can be seen.
    assert not np.ptp(found[0].surface[:, 2:], axis=0).any()
    assert not any(probe.probe(points, (1,)) for points in found)


def made_up(signal, count=150, seed=0):
    """Points whose second layer shows the label, the first one and the surface nothing."""
    rng = np.random.default_rng(seed)
    parallel = rng.random(count) < 0.5
    states = rng.normal(size=(count, 2, 8))
    states[:, 1, 3] += signal * parallel
    return Points("multiverse", "line", states, parallel, np.arange(count) % 5, rng.normal(size=(count, 3)))


def test_a_signal_is_found_in_its_layer_only():
    found = probe.probe(made_up(4.0), (3, 7), shuffles=4)
    assert [one.layer for one in found] == [None, 3, 7]
    assert found[2].verdict.auc > 0.95
    for one in found[:2]:
        assert abs(one.verdict.auc - 0.5) < 0.15
    for one in found:
        assert 0.35 < one.shuffled[0] <= one.shuffled[1] < 0.75
    assert found[2].to_dict()["verdict"]["points"] == 150
    probe.table(found, "made up")


def test_too_few_points_of_a_class():
    points = made_up(4.0)
    rare = np.zeros(150, bool)
    rare[:19] = True
    assert points.enough
    assert not Points("multiverse", "line", points.states, rare, points.fold, points.surface).enough
    one_fold = np.zeros(150, int)
    assert not Points("multiverse", "line", points.states, points.parallel, one_fold, points.surface).enough


def test_the_surface_tells_tokens_apart():
    def sheet(tokens):
        none = np.zeros((1, len(tokens)), np.int32)
        return Sheet(np.array(tokens, np.int32), np.arange(len(tokens), dtype=np.int32), none, none)

    seen = probe.surface([sheet([5, 6, 7]), sheet([5, 6, 8, 7])], [np.array([2]), np.array([2, 3])])
    assert seen[:, 0].tolist() == [2, 2, 3]
    named = {tuple(row) for row in seen[:, 2:]}
    assert len(named) == 3


def test_layers_are_spread():
    assert probe.spread(30) == (0, 8, 15, 22, 30)
    assert probe.spread(2) == (0, 1, 2)
