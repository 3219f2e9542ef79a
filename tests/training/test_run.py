"""Whole runs: learning, resuming, interruption, what goes wrong."""

import json
import os
import signal

import jax
import numpy as np
import pytest
from tiny_training import RandomBatches, make_model, make_simple_model

from mvjax.errors import UserError
from mvjax.training.mesh import make_placement
from mvjax.training.metrics import TIMES, read_metrics
from mvjax.training.train import fit


def start(config, steps, batches=None, model=None, **options):
    batches = batches or RandomBatches()
    return fit(config, model or make_simple_model(), make_placement(config.mesh), batches, steps, **options)


def without_times(path):
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_metrics(path / "metrics.jsonl")]


def assert_equal_bits(a, b):
    leaves, others = jax.tree.leaves(jax.device_get(a)), jax.tree.leaves(jax.device_get(b))
    assert len(leaves) == len(others)
    for x, y in zip(leaves, others):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.slow
def test_a_tiny_model_learns_a_fixed_batch_by_heart(make_config):
    result = start(make_config(), 60, RandomBatches(fixed=True), make_model(0))
    losses = [line["loss"] for line in read_metrics(result.directory / "metrics.jsonl")]
    assert result.finished
    assert len(losses) == 60
    assert losses[-1] < 0.3 * losses[0]


def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(make_config):
    stop = int(np.random.default_rng().integers(1, 9))
    whole = start(make_config(name="whole", checkpoints={"every": 4}), 9, model=make_model())
    config = make_config(name="broken", checkpoints={"every": 4})
    first = start(
        make_config(name="broken", checkpoints={"every": 4}, steps={"stop_after": stop}), 9, model=make_model()
    )
    assert not first.finished
    assert int(first.state.step) == stop
    second = start(config, 9, model=make_model())
    assert second.finished
    assert_equal_bits(whole.state, second.state)
    assert without_times(whole.directory) == without_times(second.directory)


def test_resuming_after_a_crash_drops_the_metrics_that_no_checkpoint_covers(make_config):
    class Crash(Exception):
        pass

    class Crashing(RandomBatches):
        def __next__(self):
            if self.position == 6:
                raise Crash
            return super().__next__()

    whole = start(make_config(name="whole"), 8)
    config = make_config(name="crashed", checkpoints={"every": 4})
    with pytest.raises(Crash):
        start(config, 8, Crashing())
    directory = whole.directory.with_name("crashed")
    with open(directory / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "lo')  # a line that the crash cut short
    second = start(config, 8)
    assert_equal_bits(whole.state, second.state)
    assert without_times(whole.directory) == without_times(directory)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_stops_and_the_run_goes_on(make_config, number, capsys):
    class Interrupting(RandomBatches):
        def __next__(self):
            if self.position == 3:
                os.kill(os.getpid(), number)
            return super().__next__()

    before = signal.getsignal(number)
    config = make_config()
    first = start(config, 6, Interrupting())
    assert not first.finished
    assert int(first.state.step) == 4  # the step in hand is finished
    assert signal.getsignal(number) is before
    second = start(config, 6)
    assert second.finished
    assert "resumed at step 4" in capsys.readouterr().out


def test_second_signal_stops_at_once(make_config):
    class Interrupting(RandomBatches):
        def __next__(self):
            if self.position == 3:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
            return super().__next__()

    with pytest.raises(KeyboardInterrupt):
        start(make_config(), 6, Interrupting())


def test_loss_that_is_not_finite_stops_the_run_and_keeps_the_good_checkpoint(make_config):
    class Poisoned(RandomBatches):
        def __next__(self):
            poison = self.position == 5
            batch = super().__next__()
            return batch._replace(loss_BT=np.where(batch.loss_BT, np.inf, 0.0)) if poison else batch

    config = make_config(checkpoints={"every": 2})
    with pytest.raises(
        UserError, match=r"step 6: .* is not finite; .*step-6\.json; the last checkpoint is good \(step 4\)"
    ):
        start(config, 8, Poisoned())
    resumed = start(config, 8)
    assert resumed.finished
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(resumed.state)))


def test_finished_run_is_found_finished(make_config):
    first = start(make_config(), 3)
    second = start(make_config(), 3)
    assert second.finished
    assert_equal_bits(first.state, second.state)
    assert len(read_metrics(first.directory / "metrics.jsonl")) == 3


def test_restart_begins_again(make_config):
    start(make_config(seed=1), 3)
    result = start(make_config(seed=2), 4, restart=True)
    assert [line["step"] for line in read_metrics(result.directory / "metrics.jsonl")] == [1, 2, 3, 4]
    assert json.loads((result.directory / "config.json").read_text())["seed"] == 2


def test_another_configuration_does_not_go_on_with_the_run(make_config):
    start(make_config(), 2)
    with pytest.raises(UserError, match=r"learning_rate was 0\.01 and is now 0\.5.*--restart"):
        start(make_config(optimizer={"learning_rate": 0.5}), 2)
    assert start(make_config(checkpoints={"every": 7, "keep": 1}), 2).finished  # fields that change nothing may change


def test_directory_of_something_else_is_left_alone(make_config, tmp_path):
    precious = tmp_path / "runs" / "run" / "thesis.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("years of work")
    with pytest.raises(UserError, match="is not the directory of a run"):
        start(make_config(), 2, restart=True)
    assert precious.read_text() == "years of work"


def test_two_processes_cannot_train_one_run(make_config):
    class Nested(RandomBatches):
        def __next__(self):
            with pytest.raises(UserError, match="another process is training this run"):
                start(make_config(), 2)
            return super().__next__()

    assert start(make_config(), 1, Nested()).finished


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"mesh": {"fsdp": 99}}, "= 99 chips, but there are 1"), ({"data": {"accumulation": 3}}, "accumulation = 3")],
)
def test_devices_and_rows_that_do_not_fit(make_config, fields, message):
    with pytest.raises(UserError, match=message):
        start(make_config(**fields), 1)


def test_tensorboard_events_and_progress_lines(make_config, capsys):
    result = start(make_config(output={"tensorboard": True}), 2)
    assert list((result.directory / "tensorboard").glob("events.*"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("run: new run, 2 steps of 4 x 24 tokens")
    assert lines[1].startswith("step 1/2  loss ")
    assert "tokens/s" in lines[1]
    assert "left 0:00" in lines[1]
