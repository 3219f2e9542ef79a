"""The benchmarks' arithmetic, without running an engine."""

import importlib.util
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from mvjax.bench import attention, layout, parallel, training
from mvjax.bench import config as settings
from mvjax.bench.bare import BareLoop
from mvjax.bench.config import SYNC
from mvjax.bench.engine import fork_cost
from mvjax.bench.many_requests import prompts_of, serve
from mvjax.bench.report import Report
from mvjax.bench.scripted import (
    FAR,
    RowsRanShort,
    Run,
    Stay,
    SteeredModel,
    bucket,
    make_script,
    rows_of_steps,
    split_stays,
)
from mvjax.bench.torch_model import labels_of, visible_of
from mvjax.engine import EngineConfig
from mvjax.errors import UserError
from mvjax.language import tags
from mvjax.language.layout import lay_out
from mvjax.tokenizers import load_tokenizer


def record(positions, steps):
    """What a result says about the tokens that were fed, in the order of the stream."""
    return SimpleNamespace(stream=SimpleNamespace(position=np.array(positions)), decode_steps=steps)


def test_live_rows_follow_from_positions():
    assert rows_of_steps(record([7, 8, 9, 9, 10, 10, 11, 12], 7)) == [1, 1, 1, 2, 2, 1, 1]
    # One row: path after path.
    assert rows_of_steps(record([7, 8, 9, 10, 9, 10, 11], 8)) == [1] * 8
    # Two rows: the third path starts beside the end of the second.
    with pytest.raises(RowsRanShort):
        rows_of_steps(record([7, 8, 8, 9, 9, 8, 10, 9], 6))


def test_stays_end_with_the_program_or_after_some_steps():
    config = EngineConfig(max_branches=8, row_counts=(1, 2, 4, 8, 16), sync_steps=3)
    assert [bucket(rows, config) for rows in (1, 2, 3, 5, 8)] == [1, 2, 4, 8, 8]
    assert split_stays([1, 1, 3, 4, 4, 4, 2, 1], config) == [[1, 1], [3, 4, 4], [4], [2], [1]]
    assert bucket(3, EngineConfig(max_branches=6, row_counts=(1, 2, 4))) == 4
    assert bucket(5, EngineConfig(max_branches=6, row_counts=(1, 2, 4))) == 6


def run_of(*stays):
    """A run with stays of (seconds, live rows)."""
    live = [rows for _, stay in stays for rows in stay]
    return Run(SimpleNamespace(decode_steps=len(live), critical_path=len(live) - 1), [Stay(*stay) for stay in stays])


def test_steady_stays_hold_neither_prefill_nor_events():
    one, two = [1] * SYNC, [2] * SYNC
    run = run_of((9.0, one), (1.0, one[:5]), (1.6, two), (2.4, two), (9.0, two), (1.0, one[:4]))
    assert run.steady(2) == [pytest.approx(0.2), pytest.approx(0.3)]
    assert run_of((9.0, one), (0.8, one), (1.6, one), (9.0, one)).steady(1) == [pytest.approx(0.1), pytest.approx(0.2)]


def test_cost_of_a_fork():
    one, two = [1] * SYNC, [2] * SYNC
    single = run_of((9.0, one), (0.8, one), (9.0, one))
    # 0.05 s beyond five steps of 0.1 s at the fork, 0.03 s beyond four of 0.2 s at the reduce; a bare step: 0.08 s.
    run = run_of((9.0, one), (0.55, one[:5]), (1.6, two), (0.83, two[:4]), (1.0, one[:4]))
    assert fork_cost(run, single, 0.08) == pytest.approx(1.0)
    # The same where a stay holds steps of both kinds, and with a step in which no token was made.
    run = run_of((9.0, one), (0.5 + 0.6 + 0.05, one[:5] + two[:3]), (1.6, two), (0.8 + 0.4 + 0.03, two[:4] + one[:4]))
    run.result.critical_path -= 1
    assert fork_cost(run, single, 0.08) == pytest.approx(2.0)


def test_bound_of_the_bare_forward():
    config = EngineConfig(max_branches=4, row_counts=(1, 2, 4))
    assert parallel.bound([1, 3, 4], {1: 2.0, 4: 3.0}, config) == pytest.approx(8 * 2.0 / 8.0)


def test_a_script_is_a_transcript(toy):
    tables = load_tokenizer(toy).with_control_tags().tables()
    script = make_script(tables, 3, paths=12, steps=20)
    assert script.prompt[0] == 3
    assert all(tables.codes[list(script.prompt)] == tags.TEXT)
    planned = [token for token in script.forced_T if token >= 0]
    codes = tables.codes[planned]
    assert (codes == tags.OUTLINE_OPEN).sum() == 12
    assert codes[-3:].tolist() == [tags.CONCLUSION_CLOSE, tags.PARALLEL_CLOSE, tags.TEXT]
    assert planned[-1] in tables.eos_ids
    with pytest.raises(UserError, match="too short"):
        make_script(tables, 0, paths=2, steps=5)


def test_steering_forces_tokens_and_bars_tags(toy, loaded):
    tables = loaded[0].tables()
    script = make_script(tables, 1, paths=2, steps=12)

    class Flat:
        vocab_size = len(tables.codes) + 3

        def init_kv(self, requests, slots):
            return ()

        def prefill(self, params, kv, *_):
            return kv

        def decode(self, params, kv, tokens_W, *_):
            return jnp.full((len(tokens_W), self.vocab_size), params), kv

    model = SteeredModel(Flat(), 0.5, tables, [script], slots=200)
    kv = model.init_kv(2, 8)
    tokens_BT, blank_BT = jnp.array([[1, 9, 9]]), jnp.array([[7, 9, 9]])
    for tokens, offset, length in ((tokens_BT, 0, 3), (tokens_BT * 5, 3, 3), (blank_BT, 0, 0)):
        numbers = [jnp.array([number]) for number in (1, offset, length)]
        kv = model.prefill(model.params, kv, tokens, None, None, None, *numbers)
    rows = SimpleNamespace(request_W=jnp.array([1, 1, 0]))
    positions_W = jnp.array([31, 60, 31])
    logits_WV, _ = model.decode(model.params, kv, jnp.zeros(3, jnp.int32), positions_W, rows, None)
    forced, free, other = np.asarray(logits_WV)
    assert forced.argmax() == script.forced_T[32]
    assert script.forced_T[61] < 0
    text_V = tables.codes == tags.TEXT
    text_V[list(tables.eos_ids)] = False
    np.testing.assert_array_equal(free[: len(text_V)], np.where(text_V, 0.5, -FAR))
    np.testing.assert_array_equal(other, free)


def test_the_bare_loop_counts_steps_and_starts_anew(loaded):
    _, model = loaded
    loop = BareLoop(model, model.params, 2, slots=64, prompt=16)
    assert [loop(8) > 0 for _ in range(4)] == [True] * 4
    assert loop._at == 16 + 2 * 8
    assert "while(" in loop.program


@pytest.mark.parametrize("shape", layout.SHAPES.values())
def test_long_transcripts_are_well_formed(shape):
    marks_T = layout.transcript(500, *shape)
    codes_T = np.maximum(marks_T, -1).astype(np.int8)
    result = lay_out(codes_T, marks_T == layout.COLON, separator_T=marks_T == layout.SEPARATOR, complete=True)
    assert len(marks_T) >= 500
    assert result.depth == shape[2] + 1
    assert len(result.parent) > shape[0]


def test_attention_is_compiled_with_its_gradients():
    chosen = settings.AttentionBench(heads=2, kv_heads=1, head_dim=8, levels=2)
    # The dense one holds at least its weights: 2 heads of T x T floats.
    assert attention.temporary_bytes(attention.dense, chosen, 64) >= 2 * 64 * 64 * 4
    assert attention.temporary_bytes(attention.blockwise, chosen, 64) > 0


def test_attention_reports_both_and_draws(monkeypatch, tmp_path):
    sizes = {attention.dense: lambda length: length**2 * 40, attention.blockwise: lambda length: length * 300}
    monkeypatch.setattr(attention, "temporary_bytes", lambda which, _, length: sizes[which](length))
    report = Report("attention", {})
    attention.measure(settings.AttentionBench(lengths=(64, 128, 256), output=tmp_path), report, lambda _: None)
    assert [(row["T"], row["dense/intervals"]) for row in report.rows] == [
        (length, pytest.approx(length / 7.5)) for length in (64, 128, 256)
    ]
    growth, square = report.bars
    assert growth.value == pytest.approx(1.0)
    assert square.value == pytest.approx(300 / 4 / 256)
    assert "exponent 2.00" in report.notes[0]
    if importlib.util.find_spec("matplotlib"):
        assert f"picture: {tmp_path / 'attention.png'}" in report.notes
        assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")
    else:
        assert "no picture: matplotlib is not installed" in report.notes


def test_the_packed_row_of_the_training_benchmark(toy):
    tokenizer = load_tokenizer(toy).with_control_tags()
    chosen = settings.TrainingBench(model=toy, row_length=1500, degree=2)
    batch, used = training.packed_row(chosen, tokenizer)
    assert batch.tokens_BT.shape == (1, 1500)
    assert 0 < used <= 1500
    labels_T, targets_T = labels_of(batch)[0], batch.loss_BT[0]
    assert (labels_T >= 0).sum() == targets_T.sum()
    for token in np.flatnonzero(targets_T):
        assert labels_T[batch.predecessor_BT[0, token]] == batch.tokens_BT[0, token]
    visible_TT = visible_of(batch)[0]
    assert not np.triu(visible_TT, 1).any()
    assert visible_TT.diagonal().all()
    assert not visible_TT[used:, :used].any()
    end = batch.hide_start_BET[0, 0, 0]
    assert visible_TT[end - 1, 0]
    assert not visible_TT[end:, 0].any()
    # Two paths of one block do not see each other.
    nested_T = np.flatnonzero(batch.hide_end_BET[0, 1] > batch.hide_start_BET[0, 1])
    start, stop = batch.hide_start_BET[0, 1, nested_T[0]], batch.hide_end_BET[0, 1, nested_T[0]]
    assert stop > start
    assert not visible_TT[start:stop, nested_T[0]].any()
    with pytest.raises(UserError, match="no synthetic item fits"):
        training.packed_row(settings.TrainingBench(row_length=64), tokenizer)


class Answering:
    """An engine that starts one request a stay, and makes a token of each that runs in each of two steps."""

    def __init__(self):
        self.left, self.running = {}, []

    def submit(self, prompt, *, limits, sampling, mode):
        assert mode == "autoregressive"
        assert sampling.ignore_eos
        self.left[prompt[0]] = limits.max_new_tokens
        return prompt[0]

    @property
    def busy(self):
        return any(self.left.values())

    def step(self, on_tokens):
        self.running += [number for number in self.left if number not in self.running][:1]
        updates = []
        for number in self.running:
            made = min(2, self.left[number])
            self.left[number] -= made
            updates += [SimpleNamespace(request=number, tokens=[0] * made)] * (made > 0)
        on_tokens(updates)


def test_requests_at_once():
    """The first waits for its own stay, the others for those before; prefill is in the stays in which one starts."""
    served = serve(Answering(), [[5], [6], [7]], 8)
    assert served.tokens == 24
    assert served.first_R == sorted(served.first_R)
    assert len(served.first_R) == 3
    assert [stay.starts for stay in served.stays] == [True, True, True, False, False, False]
    assert [stay.rows for stay in served.stays] == [1, 2, 3, 3, 2, 1]
    assert served.rows == 24 / 12
    rows, step = served.steady()
    assert rows == 3
    assert step == served.stays[3].seconds / 2
    assert served.seconds >= max(served.first_R) > 0


def test_prompts_have_no_beginning_in_common():
    codes, newline = np.full(500, -1, np.int8), np.zeros(500, bool)
    codes[:12], newline[12] = range(12), True
    prompts = prompts_of(SimpleNamespace(codes=codes, newline=newline), 32, 20)
    assert len({tuple(prompt[:2]) for prompt in prompts}) == 32
    assert min(map(min, prompts)) > 12


def test_sizes_of_requests_at_once():
    settings.EngineBench().check()
    for wrong in ({"requests": (2, 4)}, {"requests": (1, 4, 2)}, {"requests": ()}, {"new_tokens": 8}):
        with pytest.raises(UserError, match=r"^--(requests|new-tokens) "):
            settings.EngineBench(**wrong).check()
